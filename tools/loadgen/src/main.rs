//! `loadgen` puts load on an HTTP/1.1 file server, by downloads or uploads, checks what comes back and weighs what it cost.
//!
//! The pure parts ([`reply`], [`targets`], [`upload`], [`pace`], [`tally`], [`units`]) know neither sockets nor clocks; [`connection`] owns one
//! socket, [`run`] all of them; [`fan_out`] is a run in which one writes and many read. Existing generators were looked at first: they read bodies into memory, so that on one machine
//! they are measured rather than the server, they take any 2xx for a success, and they can't stop reading in the middle.

mod args;
mod connection;
mod fan_out;
mod hash;
mod pace;
mod random;
mod reply;
mod run;
mod tally;
mod targets;
mod units;
mod upload;
mod usage;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Output, Task};

/// Wrong use, or a run that could not begin.
const EXIT_MISUSE: u8 = 2;

fn main() -> ExitCode {
    match carry_out(Args::parse()) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("loadgen: {message}");
            ExitCode::from(EXIT_MISUSE)
        }
    }
}

fn carry_out(args: Args) -> Result<ExitCode, String> {
    match args.resolve()? {
        Task::WriteFixture(path, len) => {
            verify::write_fixture(&path, len).map_err(|e| format!("{}: {e}", path.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Hash { len, cpu, output } => {
            cpu.map_or(Ok(()), run::pin)?;
            println!("{}", hash::measure(len).shown(output));
            Ok(ExitCode::SUCCESS)
        }
        Task::FanOut(plan) => {
            let output = plan.output;
            let report = fan_out::run(*plan)?;
            match output {
                Output::Text => println!("{report}"),
                Output::Json => println!("{}", report.to_json()),
            }
            Ok(if report.errors().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Task::Load(plan) => {
            let output = plan.output;
            let report = run::run(*plan)?;
            match output {
                Output::Text => println!("{report}"),
                Output::Json => println!("{}", report.to_json()),
            }
            Ok(if report.tally.failures() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
