//! The command line: arguments and environment in, exit code out.
//!
//! clap splits the arguments and leaves every value as text. A flag and its environment variable then go through the same
//! reader, so that both take the same spelling, and a wrong value is blamed on the one that was written. clap's own `env`
//! feature was rejected: it reads the process's environment, which a test can't change without racing the others.
//!
//! Exit codes: 0 for done, 1 when `check` found something wrong, the server failed or a file was not uploaded, 2 for wrong use.

mod put;
mod sign;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::SystemTime;

use clap::Parser;
use clap::error::ErrorKind;

use crate::config::{self, Config, Overrides};
use crate::error::Error;
use crate::limits::{Limits, MemoryCeiling, Spec, Term};
use crate::server;

/// Runs the binary: its arguments, its environment, its streams.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(answer) if is_complaint(&answer) => return fail(&Error::operator(complaint(&answer)), 2),
        Err(answer) => {
            // Help and version. A reader that went away is no failure of ours.
            let _ = answer.print();
            return ExitCode::from(if answer.use_stderr() { 2 } else { 0 });
        }
    };
    match arguments.command {
        Command::Serve(flags) => server::log_to_stderr().map_or_else(
            |error| fail(&error, error.exit_code()),
            |mut log| {
                let outcome = serve(flags);
                // The last word takes the same way, behind everything that was said before it.
                let code =
                    outcome.map_or_else(|error| fail_to(&mut log, &error, error.exit_code()), |()| ExitCode::SUCCESS);
                log.close();
                code
            },
        ),
        Command::Check(flags) => match flags.resolve(&process_environment) {
            Ok(config) => {
                let _ = io::stdout().write_all(checked(&config).as_bytes());
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error, 1),
        },
        Command::Put(arguments) => match arguments.run(&process_environment) {
            Ok(true) => ExitCode::SUCCESS,
            // What failed was told with its file.
            Ok(false) => ExitCode::from(1),
            Err(error) => fail(&error, error.exit_code()),
        },
        Command::Sign(arguments) => match arguments.run(&process_environment, SystemTime::now()) {
            Ok(url) => {
                let _ = io::stdout().write_all(format!("{url}\n").as_bytes());
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error, error.exit_code()),
        },
    }
}

/// Whether something is wrong with the arguments, rather than help or the version being asked for.
fn is_complaint(answer: &clap::Error) -> bool {
    answer.use_stderr() && answer.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// What clap says of wrong arguments, its tip included, as the one line that every wrong use is answered with.
fn complaint(answer: &clap::Error) -> String {
    let text = answer.to_string();
    let said =
        text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let said = said.map(|line| line.trim_start_matches("error: ").trim_start_matches("tip: "));
    let said: Vec<&str> = said.filter(|line| !line.is_empty()).collect();
    // What stands behind a colon is a list.
    let said = said.join("; ").replace(":; ", ": ");
    let usage = text.lines().find_map(|line| line.strip_prefix("Usage: "));
    match usage.filter(|_| answer.kind() == ErrorKind::MissingRequiredArgument) {
        Some(usage) => format!("{said}; usage: {usage}; --help says what there is"),
        None => format!("{said}; --help says what there is"),
    }
}

fn serve(flags: Flags) -> Result<(), Error> {
    server::run(flags.resolve(&process_environment)?, move || flags.resolve(&process_environment))
}

fn process_environment(name: &str) -> Option<OsString> {
    env::var_os(name)
}

fn fail(error: &Error, code: u8) -> ExitCode {
    fail_to(&mut io::stderr(), error, code)
}

fn fail_to(stream: &mut dyn Write, error: &Error, code: u8) -> ExitCode {
    // In one piece: each write to the log is a line. A reader that went away is no failure of ours.
    let _ = stream.write_all(format!("{}\n", error.report()).as_bytes());
    ExitCode::from(code)
}

#[derive(Debug, Parser)]
#[command(name = "highwater", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Every flag has an environment variable: HIGHWATER_ and the flag's name in capitals, with _ for -. A flag stands above its
variable, the variable above the file, the file above the default. docs/CONFIG.md describes the file.";

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Serve a folder, or the routes of a configuration file
    #[command(after_help = AFTER_HELP)]
    Serve(Flags),
    /// Print the resolved configuration and the memory ceiling, or what is wrong and where
    #[command(after_help = AFTER_HELP)]
    Check(Flags),
    /// Upload files, resume what was interrupted, and check their digests
    Put(put::Arguments),
    /// Print a URL that opens what is guarded by signing_keys, for a while
    Sign(sign::Arguments),
}

/// What may be said on the command line, as it was written. A field's name gives the flag, and the flag its variable.
#[derive(Debug, Default, clap::Args)]
struct Flags {
    /// Folder to serve at /
    root: Option<PathBuf>,
    /// Configuration file, TOML
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
    /// Where clients connect, HOST:PORT, [::1]:PORT or unix:PATH; may be repeated (a comma-separated list in the
    /// environment) [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Where the dashboard, /metrics and /healthz are answered [default: nowhere]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Threads, each with its own ring and connections [default: one for each processor]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Most bytes that one transfer moves in a turn and holds in memory, a power of two like 256KiB [default: 512KiB]
    #[arg(long, value_name = "SIZE")]
    high_water_mark: Option<String>,
    /// Origin whose scripts may read the replies, or *; may be repeated (a comma-separated list in the environment).
    /// Applies to ROOT, or without it to every media route [default: none]
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,
    /// List directories that have no index file. Applies to ROOT, or without it to every media route
    #[arg(long)]
    listing: bool,
    /// Where a line for each request goes: a file, - for standard output, or off [default: off]
    #[arg(long, value_name = "FILE|-|off")]
    access_log: Option<String>,
    /// How that line is written: text (combined) or json [default: text]
    #[arg(long, value_name = "text|json")]
    log_format: Option<String>,
    /// What talks to the kernel: auto or uring [default: auto]
    #[arg(long, value_name = "auto|uring")]
    driver: Option<String>,
    /// How bytes of files reach a socket: auto, sendfile, splice, ring-splice, read or send-zc [default: auto]
    #[arg(long, value_name = "PATH")]
    send_path: Option<String>,
}

/// Looks up an environment variable.
type Environment<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

impl Flags {
    /// The configuration that these flags, the environment and the file give. There is something to serve in it.
    fn resolve(&self, environment: &Environment<'_>) -> Result<Config, Error> {
        let file = Given::one("config", &self.config, environment)?.map(|given| PathBuf::from(given.text));
        let config = Config::load(file.as_deref(), &self.overrides(environment)?)?;
        if config.routes.is_empty() {
            return Err(nothing_to_serve(file.as_deref()));
        }
        Ok(config)
    }

    fn overrides(&self, environment: &Environment<'_>) -> Result<Overrides, Error> {
        let one = |flag, value| Given::one(flag, value, environment);
        let several = |flag, values| Given::several(flag, values, environment);
        Ok(Overrides {
            root: self.root.clone(),
            listen: several("listen", &self.listen)?.map(|all| all.iter().map(Given::parse).collect()).transpose()?,
            admin: one("admin", &self.admin)?.map(|given| given.parse()).transpose()?,
            workers: one("workers", &self.workers)?.map(|given| given.workers()).transpose()?,
            high_water_mark: one("high-water-mark", &self.high_water_mark)?
                .map(|given| given.high_water_mark())
                .transpose()?,
            cors: several("cors", &self.cors)?.map(origins).transpose()?,
            listing: self.listing(environment)?,
            access_log: one("access-log", &self.access_log)?.map(|given| given.parse()).transpose()?,
            log_format: one("log-format", &self.log_format)?.map(|given| given.parse()).transpose()?,
            driver: one("driver", &self.driver)?.map(|given| given.parse()).transpose()?,
            send_path: one("send-path", &self.send_path)?.map(|given| given.parse()).transpose()?,
        })
    }

    /// The flag can only switch it on; the variable can also switch off what the file says.
    fn listing(&self, environment: &Environment<'_>) -> Result<Option<bool>, Error> {
        if self.listing {
            return Ok(Some(true));
        }
        let given = Given::one("listing", &None, environment)?;
        given.map(|given| given.switch()).transpose()
    }
}

fn nothing_to_serve(file: Option<&Path>) -> Error {
    Error::operator(match file {
        Some(path) => format!("{}: no route: write [[route]] with media = {{ root = \"PATH\" }}", path.display()),
        None => String::from("nothing to serve: name a directory, or a configuration file with --config"),
    })
}

/// A value above the file, and the name under which it was written: `--workers` or `HIGHWATER_WORKERS`.
struct Given {
    name: String,
    text: String,
}

impl Given {
    /// The flag's value, or else its variable's.
    fn one(flag: &str, value: &Option<String>, environment: &Environment<'_>) -> Result<Option<Given>, Error> {
        match value {
            Some(text) => Ok(Some(Given { name: format!("--{flag}"), text: text.clone() })),
            None => Given::from_environment(flag, environment),
        }
    }

    /// The flag's values, or else those of its variable, which are separated by commas.
    fn several(flag: &str, values: &[String], environment: &Environment<'_>) -> Result<Option<Vec<Given>>, Error> {
        let split = |given: Given| {
            let texts = given.text.split(',').map(|text| text.trim().to_string());
            texts.map(|text| Given { name: given.name.clone(), text }).collect()
        };
        if values.is_empty() {
            return Ok(Given::from_environment(flag, environment)?.map(split));
        }
        let name = format!("--{flag}");
        Ok(Some(values.iter().map(|text| Given { name: name.clone(), text: text.clone() }).collect()))
    }

    /// An empty variable is one that isn't set: that is how a shell or a unit file clears it.
    fn from_environment(flag: &str, environment: &Environment<'_>) -> Result<Option<Given>, Error> {
        let name = variable(flag);
        match environment(&name).filter(|value| !value.is_empty()).map(OsString::into_string) {
            Some(Ok(text)) => Ok(Some(Given { name, text })),
            Some(Err(_)) => Err(Error::operator(format!("{name}: not UTF-8: write another value"))),
            None => Ok(None),
        }
    }

    fn parse<T: FromStr<Err = Error>>(&self) -> Result<T, Error> {
        self.text.parse().map_err(|error: Error| self.wrong(error.report()))
    }

    fn workers(&self) -> Result<NonZero<usize>, Error> {
        config::parse_workers(&self.text).map_err(|error| self.wrong(error.report()))
    }

    fn high_water_mark(&self) -> Result<usize, Error> {
        let mut limits = Limits::default();
        let read = |spec: &Spec| spec.set(&mut limits, spec.unit.parse(&self.text)?);
        Limits::spec("high_water_mark").map_or(Ok(()), read).map_err(|invalid| self.wrong(invalid.to_string()))?;
        Ok(limits.high_water_mark)
    }

    fn switch(&self) -> Result<bool, Error> {
        match self.text.as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            other => Err(self.wrong(format!("`{other}` is neither: write true or false"))),
        }
    }

    fn wrong(&self, what: String) -> Error {
        Error::operator(format!("{}: {what}", self.name))
    }
}

fn origins(given: Vec<Given>) -> Result<Vec<String>, Error> {
    let origins: Vec<String> = given.iter().map(|origin| origin.text.clone()).collect();
    match (config::check_cors(&origins), given.first()) {
        (Err(what), Some(first)) => Err(first.wrong(what)),
        _ => Ok(origins),
    }
}

fn variable(flag: &str) -> String {
    format!("HIGHWATER_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// What `check` prints: a file that gives this configuration, and the memory ceiling as comments below it.
fn checked(config: &Config) -> String {
    format!("{}\n{}", config.to_toml(), ceiling(&config.memory_ceiling()))
}

fn ceiling(ceiling: &MemoryCeiling) -> String {
    let workers = ceiling.workers;
    let mut lines = format!("# memory ceiling: {}\n", about(ceiling.bytes()));
    lines.push_str("#   process\n");
    ceiling.process.iter().for_each(|term| lines.push_str(&term_line(term)));
    lines.push_str(&format!("#   worker, {workers} times\n"));
    ceiling.worker.iter().for_each(|term| lines.push_str(&term_line(term)));
    lines.push_str(&format!("# beside it in the kernel, at most: {}\n", about(ceiling.kernel_bytes())));
    lines.push_str(&format!("#   worker, {workers} times\n"));
    ceiling.kernel.iter().for_each(|term| lines.push_str(&term_line(term)));
    lines
}

fn term_line(term: &Term) -> String {
    let product = if term.count == 1 { String::new() } else { format!("  {} × {}", term.count, about(term.each)) };
    format!("#     {:<20}{:>12}{product}\n", term.name, about(term.bytes()))
}

/// Bytes for a reader's eye, in the unit that leaves a figure or more before the point.
fn about(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AccessLog, DriverKind, HandlerConfig, ListenAddress, LogFormat, MediaConfig};
    use clap::CommandFactory;
    use std::collections::BTreeMap;
    use std::fs;

    /// What a command line and an environment resolve to. `@` stands for a directory with `media/` and `site.toml` in it.
    struct Case {
        dir: tempfile::TempDir,
    }

    impl Case {
        fn new(file: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("media")).unwrap();
            fs::write(dir.path().join("site.toml"), file).unwrap();
            Case { dir }
        }

        fn path(&self, text: &str) -> String {
            text.replace('@', self.dir.path().to_str().unwrap())
        }

        fn resolve(&self, arguments: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
            let arguments = format!("highwater serve {}", self.path(arguments));
            let parsed = Arguments::try_parse_from(arguments.split_whitespace()).map_err(|e| e.kind().to_string())?;
            let Command::Serve(flags) = parsed.command else { panic!("not serve") };
            let variables: BTreeMap<&str, String> = environment.iter().map(|(k, v)| (*k, self.path(v))).collect();
            let lookup = |name: &str| variables.get(name).map(OsString::from);
            flags.resolve(&lookup).map_err(|e| e.report().replace(self.dir.path().to_str().unwrap(), "@"))
        }
    }

    const SITE: &str = "
        [server]
        listen = \"127.0.0.1:1\"
        admin = \"127.0.0.1:2\"
        workers = 3
        access_log = \"site.log\"
        log_format = \"json\"
        driver = \"auto\"
        send_path = \"read\"
        [limits]
        high_water_mark = \"32KiB\"
        [[route]]
        prefix = \"/site\"
        media = { root = \"media\", cors = \"https://site.example\" }
    ";

    fn media_of(config: &Config) -> &MediaConfig {
        match &config.routes[0].handler {
            HandlerConfig::Media(media) => media,
            other => panic!("no media route: {other:?}"),
        }
    }

    /// How each flag, and with it its variable, shows in the configuration: flag, the file's value (`None` where the file
    /// says nothing), the variable's text and value, the flag's text and value.
    type Row =
        (&'static str, fn(&Config) -> String, &'static str, (&'static str, &'static str), (&'static str, &'static str));

    const ROWS: &[Row] = &[
        (
            "listen",
            |c| format!("{:?}", shown(&c.listen)),
            "[\"127.0.0.1:1\"]",
            ("[::1]:3, 127.0.0.1:4", "[\"[::1]:3\", \"127.0.0.1:4\"]"),
            ("unix:/a,b", "[\"unix:/a,b\"]"),
        ),
        (
            "admin",
            |c| c.admin.as_ref().unwrap().to_string(),
            "127.0.0.1:2",
            ("127.0.0.1:3", "127.0.0.1:3"),
            ("[::1]:4", "[::1]:4"),
        ),
        ("workers", |c| c.workers.to_string(), "3", ("5", "5"), ("7", "7")),
        (
            "high-water-mark",
            |c| c.limits.high_water_mark.to_string(),
            "32768",
            ("64KiB", "65536"),
            ("128KiB", "131072"),
        ),
        (
            "cors",
            |c| format!("{:?}", media_of(c).cors.as_ref().unwrap()),
            "[\"https://site.example\"]",
            ("https://a.example,https://b.example", "[\"https://a.example\", \"https://b.example\"]"),
            ("*", "[\"*\"]"),
        ),
        ("access-log", |c| c.access_log.to_string(), "@/site.log", ("off", "off"), ("-", "-")),
        ("log-format", |c| c.log_format.to_string(), "json", ("text", "text"), ("json", "json")),
        ("driver", |c| c.driver.to_string(), "auto", ("uring", "uring"), ("auto", "auto")),
        ("send-path", |c| c.send_path.to_string(), "read", ("splice", "splice"), ("auto", "auto")),
    ];

    fn shown(addresses: &[ListenAddress]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_flag_stands_above_its_variable_and_that_above_the_file() {
        let case = Case::new(SITE);
        for (flag, read, in_file, (variable_text, variable_value), (flag_text, flag_value)) in ROWS {
            let environment = [(variable(flag), variable_text)];
            let environment: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (k.as_str(), **v)).collect();
            let arguments = format!("--config @/site.toml --{flag} {flag_text}");
            let layers = [
                ("--config @/site.toml", &[][..], case.path(in_file)),
                ("--config @/site.toml", &environment, variable_value.to_string()),
                (arguments.as_str(), &[], flag_value.to_string()),
                (arguments.as_str(), &environment, flag_value.to_string()),
            ];
            for (arguments, environment, expected) in layers {
                assert_eq!(
                    read(&case.resolve(arguments, environment).unwrap()),
                    expected,
                    "{arguments} {environment:?}"
                );
            }
        }
    }

    #[test]
    fn every_flag_has_its_row_and_its_place_in_the_documentation() {
        let command = Arguments::command();
        let documentation = include_str!("../docs/CONFIG.md");
        for subcommand in command.get_subcommands().filter(|subcommand| is_configured(subcommand)) {
            for flag in subcommand.get_arguments().filter_map(|argument| argument.get_long()) {
                // These two have tests of their own: one is no value, the other no part of the configuration.
                let tested = ROWS.iter().any(|row| row.0 == flag) || ["listing", "config"].contains(&flag);
                assert!(tested, "--{flag} has no row");
                let line = format!("| `--{flag}");
                let documented =
                    documentation.lines().find(|l| l.starts_with(&line)).unwrap_or_else(|| panic!("--{flag}"));
                assert!(documented.contains(&format!("`{}`", variable(flag))), "{documented}");
            }
        }
    }

    /// Whether its flags are configuration, with a variable and a key each.
    fn is_configured(subcommand: &clap::Command) -> bool {
        ["serve", "check"].contains(&subcommand.get_name())
    }

    #[test]
    fn every_flag_that_is_no_configuration_is_documented_with_its_subcommand() {
        let command = Arguments::command();
        let documentation = include_str!("../docs/CONFIG.md");
        for subcommand in command.get_subcommands().filter(|subcommand| !is_configured(subcommand)) {
            let name = subcommand.get_name();
            let (_, section) = documentation.split_once(&format!("\n## `highwater {name}`\n")).expect(name);
            let section = section.split("\n## ").next().unwrap();
            let mut documented: Vec<&str> = section.split("\n| `--").skip(1).collect();
            documented.iter_mut().for_each(|row| *row = row.split(['`', ' ']).next().unwrap());
            let flags: Vec<&str> = subcommand.get_arguments().filter_map(|argument| argument.get_long()).collect();
            assert_eq!(documented, flags, "{name}");
        }
    }

    #[test]
    fn the_file_is_named_by_flag_or_variable() {
        let case = Case::new(SITE);
        assert_eq!(case.resolve("", &[("HIGHWATER_CONFIG", "@/site.toml")]).unwrap().workers.get(), 3);
        let refusal = case.resolve("--config @/gone.toml", &[("HIGHWATER_CONFIG", "@/site.toml")]).unwrap_err();
        assert!(refusal.starts_with("@/gone.toml: cannot be read (No such file"), "{refusal}");
    }

    #[test]
    fn listing_is_switched_on_by_flag_and_either_way_by_variable() {
        let case = Case::new("[[route]]\nmedia = { root = \"media\", listing = true }");
        let listing = |arguments: &str, environment: &[(&str, &str)]| {
            media_of(&case.resolve(arguments, environment).unwrap()).listing
        };
        assert!(listing("--config @/site.toml", &[]));
        assert!(!listing("--config @/site.toml", &[("HIGHWATER_LISTING", "false")]));
        assert!(listing("--config @/site.toml --listing", &[("HIGHWATER_LISTING", "0")]));
        assert!(!listing("@/media", &[]));
        assert!(listing("@/media", &[("HIGHWATER_LISTING", "1")]));
        assert!(listing("@/media --listing", &[]));
    }

    #[test]
    fn root_takes_the_place_of_the_files_route_at_the_top_and_leaves_the_others() {
        let case = Case::new(
            "[[route]]\nprefix = \"/a\"\nmedia = { root = \"media\" }\n[[route]]\nmedia = { root = \".\" }\n\
             [[route]]\nhost = \"b.example\"\nmedia = { root = \".\" }\n",
        );
        let config = case.resolve("@/media --config @/site.toml --listing --cors *", &[]).unwrap();
        let places: Vec<_> = config.routes.iter().map(|r| (r.host.as_deref(), r.prefix.as_str())).collect();
        assert_eq!(places, [(None, "/"), (None, "/a"), (Some("b.example"), "/")]);
        assert_eq!(media_of(&config).root, case.dir.path().join("media"));
        let listed = config.routes.iter().filter(
            |route| matches!(&route.handler, HandlerConfig::Media(media) if media.listing || media.cors.is_some()),
        );
        assert_eq!(listed.count(), 1, "--listing and --cors are the root's alone");
    }

    #[test]
    fn without_a_file_it_is_the_default_and_the_root() {
        let case = Case::new("");
        let config = case.resolve("@/media", &[]).unwrap();
        let expected = Config { routes: config.routes.clone(), ..Config::default() };
        assert_eq!(config, expected);
        assert_eq!(media_of(&config), &MediaConfig::new(case.dir.path().join("media")));
        assert_eq!(
            (config.access_log, config.log_format, config.driver),
            (AccessLog::Off, LogFormat::Text, DriverKind::Auto)
        );
    }

    #[test]
    fn paths_on_the_command_line_are_taken_from_the_working_directory() {
        let case = Case::new("");
        let config = case.resolve("src --access-log a.log --listen unix:a.sock", &[]).unwrap();
        let here = env::current_dir().unwrap();
        assert_eq!(media_of(&config).root, here.join("src"));
        assert_eq!(config.access_log, AccessLog::File(here.join("a.log")));
        assert_eq!(config.listen, [ListenAddress::Unix(here.join("a.sock"))]);
    }

    #[track_caller]
    fn check_refused(arguments: &str, environment: &[(&str, &str)], expected: &str) {
        assert_eq!(Case::new("").resolve(arguments, environment), Err(expected.to_string()));
    }

    #[test]
    fn wrong_use_is_one_line_that_names_what_was_written() {
        let v = |name: &'static str, text: &'static str| [(name, text)];
        check_refused("", &[], "nothing to serve: name a directory, or a configuration file with --config");
        check_refused(
            "--config @/site.toml",
            &[],
            "@/site.toml: no route: write [[route]] with media = { root = \"PATH\" }",
        );
        check_refused("@/gone", &[], "`@/gone` does not exist: create it, or write the directory that holds the files");
        check_refused("@/site.toml", &[], "`@/site.toml` is not a directory: write the directory that holds the files");
        check_refused("@/media --listen 127.0.0.1", &[], "--listen: `127.0.0.1` has no port: write 127.0.0.1:8080");
        let refusal = "HIGHWATER_LISTEN: `b` has no port: write b:8080";
        check_refused("@/media", &v("HIGHWATER_LISTEN", "127.0.0.1:1,b"), refusal);
        check_refused("@/media --workers 0", &[], "--workers: `0` workers is out of bounds: write 1 to 1024");
        check_refused("@/media --workers 1025", &[], "--workers: `1025` workers is out of bounds: write 1 to 1024");
        let refusal = "HIGHWATER_WORKERS: `two` is not a number of workers: write 1 or more";
        check_refused("@/media", &v("HIGHWATER_WORKERS", "two"), refusal);
        let refusal = "--high-water-mark: `100KiB` is not a power of two: write 64KiB or 128KiB";
        check_refused("@/media --high-water-mark 100KiB", &[], refusal);
        let refusal = "--high-water-mark: `32MiB` is out of bounds: write 16KiB to 16MiB";
        check_refused("@/media --high-water-mark 32MiB", &[], refusal);
        let refusal = "--cors: \"https://A.example/\" is no origin; write scheme, host and port only, such as \
                       \"https://player.example\" or \"http://localhost:3000\"";
        check_refused("@/media --cors https://A.example/", &[], refusal);
        check_refused("@/media --driver epoll", &[], "--driver: `epoll` is not a driver: write auto or uring");
        check_refused("@/media --log-format xml", &[], "--log-format: `xml` is not a log format: write text or json");
        let refusal = "--access-log: no file: write its path, `-` for standard output, or `off`";
        check_refused("@/media --access-log=", &[], refusal);
        let refusal = "HIGHWATER_LISTING: `yes` is neither: write true or false";
        check_refused("@/media", &v("HIGHWATER_LISTING", "yes"), refusal);
        let refusal = "admin: `127.0.0.1:8080` is also an address for clients: write another port";
        check_refused("@/media --admin 127.0.0.1:8080", &[], refusal);
    }

    #[test]
    fn a_variable_that_is_empty_is_not_set_and_one_that_is_not_utf8_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let case = Case::new("");
        assert!(case.resolve("@/media", &[("HIGHWATER_WORKERS", "")]).is_ok());
        let flags = Flags::default();
        let refusal = flags.resolve(&|name| (name == "HIGHWATER_ADMIN").then(|| OsString::from_vec(vec![0xff])));
        assert_eq!(refusal.unwrap_err().report(), "HIGHWATER_ADMIN: not UTF-8: write another value");
    }

    #[test]
    fn what_check_prints_reads_back_as_the_same_configuration() {
        let guard = "auth = { tokens = \"t\", signing_keys = \"k\", request = \"http://127.0.0.1:9/a\", request_timeout = \"2s\", \
                     methods = [\"POST\", \"GET\"] }";
        let case = Case::new(&format!("{SITE}[[route]]\nprefix = \"/b\"\nmedia.root = \"media\"\n{guard}\n"));
        fs::write(case.path("@/t"), "0123456789abcdef").unwrap();
        fs::write(case.path("@/k"), "0123456789abcdef0123456789abcdef").unwrap();
        let config =
            case.resolve("@/media --config @/site.toml --listen unix:a.sock --high-water-mark 1MiB", &[]).unwrap();
        let printed = case.dir.path().join("printed.toml");
        fs::write(&printed, checked(&config)).unwrap();
        assert_eq!(case.resolve("--config @/printed.toml", &[]).unwrap(), config);
        let auth = config.routes.iter().find_map(|route| route.auth.first()).unwrap();
        assert_eq!(auth.tokens.as_deref(), Some(Path::new(&case.path("@/t"))));
        assert_eq!((auth.request_timeout.as_secs(), auth.methods.as_ref().map(Vec::len)), (2, Some(2)));
    }

    #[test]
    fn a_root_in_the_place_of_a_guarded_route_is_guarded_too() {
        let case = Case::new("[[route]]\nmedia.root = \".\"\nauth.request = \"http://127.0.0.1:9/\"\n");
        let config = case.resolve("@/media --config @/site.toml", &[]).unwrap();
        assert_eq!(media_of(&config).root, case.dir.path().join("media"));
        assert!(config.routes.len() == 1 && config.routes[0].auth.len() == 1);
    }

    #[test]
    fn the_ceiling_is_printed_with_its_terms() {
        let config = Config { workers: NonZero::new(2).unwrap(), ..Config::default() };
        let expected = "\
# memory ceiling: 2.0 GiB
#   process
#     base                     8.0 MiB
#     access log               1.0 MiB
#     directory listings      19.5 MiB  2 × 9.8 MiB
#   worker, 2 times
#     base                     4.0 MiB
#     receive buffers          4.0 MiB  256 × 16.0 KiB
#     transfer buffers        32.0 MiB  64 × 512.0 KiB
#     upload buffers          32.0 MiB  128 × 256.0 KiB
#     uploads                 15.6 MiB  2000 × 8.0 KiB
#     connections              4.9 MiB  10000 × 512 B
#     requests under way     859.4 MiB  10000 × 88.0 KiB
#     open files               1.0 MiB  1024 × 1.0 KiB
#     hot files               16.0 MiB
#     listings                16.0 MiB
#     forms                   16.0 MiB
#     authorisations          12.0 MiB  256 × 48.0 KiB
# beside it in the kernel, at most: 4.9 GiB
#   worker, 2 times
#     send queues              2.4 GiB  10000 × 256.0 KiB
#     pipes                  160.0 KiB  16 × 10.0 KiB
";
        assert_eq!(ceiling(&config.limits.memory_ceiling(2)), expected);
    }

    #[test]
    fn clap_accepts_the_definition_and_refuses_what_is_not_in_it() {
        Arguments::command().debug_assert();
        for arguments in ["serve --listning", "serve a b", "sreve", "serve --workers", "serve --listing=no", ""] {
            let words = std::iter::once("highwater").chain(arguments.split_whitespace());
            let refusal = Arguments::try_parse_from(words).unwrap_err();
            assert!(refusal.use_stderr(), "{arguments}");
        }
    }
}
