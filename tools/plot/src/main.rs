//! `plot` draws what `tools/versus` measured: for each row a panel, in it a bar for each server, as long as its ratio to nginx.
//!
//! [`comparison`] reads and checks, [`chart`] draws into a string; files are touched here only, and the image is written last and
//! whole.

mod chart;
mod comparison;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::comparison::Comparison;

/// Draws a result of tools/versus as SVG: each server in terms of nginx, row by row.
#[derive(Parser, Debug)]
#[command(name = "plot", version)]
struct Args {
    /// What `versus --json` wrote; - for standard input.
    result: PathBuf,

    /// The image to write.
    image: PathBuf,
}

fn main() -> ExitCode {
    match draw(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("plot: {message}");
            ExitCode::FAILURE
        }
    }
}

fn draw(args: &Args) -> Result<(), String> {
    let text = read(&args.result).map_err(|e| format!("{}: {e}", args.result.display()))?;
    let comparison = Comparison::parse(&text).map_err(|e| format!("{}: {e}", args.result.display()))?;
    let image = chart::svg(&comparison)?;
    fs::write(&args.image, image).map_err(|e| format!("{}: {e}", args.image.display()))
}

fn read(path: &Path) -> io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    fs::read_to_string(path)
}
