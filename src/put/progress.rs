//! What is seen of the work: bars on a terminal, lines anywhere else.
//!
//! A file that is done is a line on standard output, which a script may read. All else goes to standard error: the bars, the
//! reasons for waiting, failures, and a line about all files if there were several.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{BinaryBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar whose end is known. The constants are valid templates, by test.
const BAR: &str = "{prefix} [{bar:24}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} {msg}";

/// A bar whose end is not known.
const SPINNER: &str = "{prefix} {spinner} {binary_bytes} {binary_bytes_per_sec} {msg}";

/// How wide a bar's name is, in characters.
const NAME_WIDTH: usize = 24;

/// The terminal, or what is in its place.
#[derive(Debug)]
pub(super) struct View {
    bars: MultiProgress,
    total: Option<ProgressBar>,
    has_bars: bool,
    is_quiet: bool,
}

impl View {
    /// A view of so many files, of so many bytes together where that is known.
    pub fn new(is_quiet: bool, files: usize, bytes: Option<u64>) -> Self {
        let has_bars = !is_quiet && io::stderr().is_terminal();
        let target = if has_bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bars = MultiProgress::with_draw_target(target);
        let total = (files > 1 && has_bars).then(|| bars.add(bar("total", bytes)));
        View { bars, total, has_bars, is_quiet }
    }

    /// A bar for one file, above the total.
    pub fn file(&self, name: &str, bytes: Option<u64>) -> FileView<'_> {
        let bar = bar(name, bytes);
        let bar = match &self.total {
            Some(total) => self.bars.insert_before(total, bar),
            None => self.bars.add(bar),
        };
        FileView { view: self, bar, counted: 0 }
    }

    /// A line for whoever reads the results.
    pub fn result(&self, line: &str) {
        if !self.is_quiet {
            // A reader that went away is no failure of ours.
            self.bars.suspend(|| _ = writeln!(io::stdout(), "{line}"));
        }
    }

    /// A line about the course of things.
    pub fn note(&self, line: &str) {
        if !self.is_quiet {
            self.failure(line);
        }
    }

    /// A line about a failure, which is told in any case.
    pub fn failure(&self, line: &str) {
        // What comes from a server must not write to the terminal as it likes.
        let line = line.replace(|c: char| c.is_control(), " ");
        self.bars.suspend(|| _ = writeln!(io::stderr(), "{line}"));
    }
}

/// The bar of one file.
#[derive(Debug)]
pub(super) struct FileView<'a> {
    view: &'a View,
    bar: ProgressBar,
    /// What of the file is in the total.
    counted: u64,
}

impl FileView<'_> {
    /// Shows that so many more bytes are on their way.
    pub fn sent(&mut self, bytes: u64) {
        self.show(self.bar.position() + bytes);
        self.bar.set_message("");
    }

    /// Shows that the server has what lies before this offset.
    pub fn at(&mut self, offset: u64) {
        if self.bar.position() != offset {
            self.show(offset);
            // What an earlier run has sent says nothing about the rate of this one.
            self.bar.reset_eta();
        }
    }

    fn show(&mut self, position: u64) {
        self.bar.set_position(position);
        if let Some(total) = &self.view.total {
            total.set_position(total.position() + position - self.counted.min(position));
            total.set_position(total.position() - self.counted.saturating_sub(position));
        }
        self.counted = position;
    }

    /// Shows why nothing goes on for a while.
    pub fn waits(&self, name: &str, why: &str, time: Duration) {
        let message = format!("{why}; again in {:.1} s", time.as_secs_f64());
        if self.view.has_bars {
            self.bar.set_message(message.replace(|c: char| c.is_control(), " "));
        } else {
            self.notes(name, &message);
        }
    }

    /// A line about the course of this file.
    pub fn notes(&self, name: &str, what: &str) {
        self.view.note(&format!("{name}: {what}"));
    }
}

impl Drop for FileView<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn bar(name: &str, bytes: Option<u64>) -> ProgressBar {
    let template = if bytes.is_some() { BAR } else { SPINNER };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let cut: String = name.chars().take(NAME_WIDTH).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let bar = bytes.map_or_else(ProgressBar::no_length, ProgressBar::new);
    bar.with_style(style.progress_chars("=> ")).with_prefix(format!("{cut:<NAME_WIDTH$}"))
}

/// How much in which time, and how fast: `50.00 MiB in 1.2 s, 41.67 MiB/s`.
pub(super) fn course(bytes: u64, sent: u64, time: Duration) -> String {
    let seconds = time.as_secs_f64().max(0.001);
    let rate = BinaryBytes((sent as f64 / seconds) as u64);
    format!("{} in {seconds:.1} s, {rate}/s", BinaryBytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        for template in [BAR, SPINNER] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn the_course_of_an_upload_in_words() {
        assert_eq!(course(50 << 20, 25 << 20, Duration::from_millis(500)), "50.00 MiB in 0.5 s, 50.00 MiB/s");
        assert_eq!(course(0, 0, Duration::ZERO), "0 B in 0.0 s, 0 B/s");
    }

    #[test]
    fn the_total_follows_its_files_forth_and_back() {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let total = Some(bars.add(bar("total", None)));
        let view = View { bars, total, has_bars: false, is_quiet: true };
        let position = || view.total.as_ref().unwrap().position();
        let mut first = view.file("a", Some(100));
        first.sent(60);
        first.at(40);
        assert_eq!(position(), 40);
        first.sent(60);
        drop(first);
        let mut second = view.file("b", None);
        second.at(7);
        second.sent(3);
        assert_eq!(position(), 110);
    }
}
