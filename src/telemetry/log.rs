//! What the process has to say of itself, on standard error, without ever waiting for whoever reads it.
//!
//! A worker that writes to standard error stands still for as long as nobody reads the pipe behind it, and every connection
//! with it. So lines go the way of the access log: into a bounded buffer that a thread of its own writes out, and where
//! lines were lost, a line says how many.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use super::line_writer::{LineWriter, Open, Reports};

/// A handle to the log; every clone is the same log. Each write to it is a line.
#[derive(Clone, Debug)]
pub struct Log(Arc<LineWriter>);

impl Log {
    /// Makes standard error the place where every event of the process goes, and every panic. Once in a process: there is
    /// one standard error, and one place for events. At most `buffer_len` bytes wait to be written.
    ///
    /// # Errors
    /// No thread or no descriptor is to be had.
    pub fn to_stderr(buffer_len: usize) -> io::Result<Self> {
        let open = || Ok(Box::new(File::from(io::stderr().as_fd().try_clone_to_owned()?)) as Box<dyn Write + Send>);
        let log = Log::start(Box::new(open), buffer_len)?;
        let writer = log.clone();
        tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).with_target(false).init();
        // The usual hook writes to standard error itself, and so from a worker's thread.
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current();
            tracing::error!(thread = thread.name(), "{}", panic.to_string().replace('\n', " "));
        }));
        Ok(log)
    }

    fn start(open: Open, buffer_len: usize) -> io::Result<Self> {
        // There is nowhere to tell of a standard error that can't be written.
        let reports = Reports { news: drop, gap: Some(gap) };
        LineWriter::start("log", open, reports, buffer_len).map(|lines| Log(Arc::new(lines)))
    }

    /// Writes what is buffered, and waits some seconds at most for whoever reads it; what comes later is lost.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.append(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gap(lines: u64) -> String {
    format!("{lines} lines were lost here: standard error was not read in time\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_reader_that_stops_costs_lines_and_is_told_how_many() {
        let (mut reader, mut pipe) = io::pipe().unwrap();
        pipe.write_all(&[b'.'; 64 << 10]).unwrap();
        let mut pipe = Some(pipe);
        let open: Open = Box::new(move || Ok(Box::new(pipe.take().expect("opened once"))));
        let mut log = Log::start(open, 200).unwrap();
        // One half at most is with the thread, which is stuck, and one waits.
        (0..50).for_each(|_| log.write_all(b"a line of twenty b.\n").unwrap());
        let reading = std::thread::spawn(move || {
            let mut all = String::new();
            reader.read_to_string(&mut all).map(|_| all)
        });
        log.close();
        drop(log);
        let all = reading.join().unwrap().unwrap();
        let lines: Vec<&str> = all.trim_start_matches('.').lines().collect();
        let (kept, told): (Vec<&str>, Vec<&str>) = lines.iter().partition(|line| **line == "a line of twenty b.");
        let lost: usize = told.iter().map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap()).sum();
        assert!((5..=10).contains(&kept.len()), "{all}");
        assert_eq!(kept.len() + lost, 50, "{all}");
    }
}
