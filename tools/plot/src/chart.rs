//! The drawing: panels in two columns, each with a bar for each server, from 0 to a ratio of [`RATIO_MAX`].
//!
//! Lengths are linear, so that twice as long is twice as good; a bar beyond the end is cut, which its end and its figure say. On a
//! logarithmic axis none would have to be cut, but the small differences, which are the ones that matter, could not be seen. The
//! background is drawn, and light, so that the image reads the same on a dark page.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::comparison::{Comparison, Row};

/// Where bars end.
pub const RATIO_MAX: f64 = 2.0;

const COLUMNS: usize = 2;
const PANEL_WIDTH: i32 = 480;
const MARGIN: i32 = 20;
const HEADING_HEIGHT: i32 = 74;

/// Inside of a panel.
const TITLE_HEIGHT: i32 = 52;
const BAR_PITCH: i32 = 19;
const BAR_HEIGHT: i32 = 13;
const AXIS_HEIGHT: i32 = 34;
const LABEL_WIDTH: i32 = 124;
/// As long as a ratio of 1.
const UNIT_WIDTH: i32 = 140;

/// More than this does not fit in a line of a panel's title.
const TITLE_LINE_CHARS: usize = 66;

/// The widest digit at the size of the figures. Nothing is measured here, for fonts are the viewer's.
const DIGIT_WIDTH: i32 = 7;

const BACKGROUND: RGBColor = RGBColor(0xf6, 0xf8, 0xfa);
const INK: RGBColor = RGBColor(0x1f, 0x23, 0x28);
const PALE_INK: RGBColor = RGBColor(0x59, 0x63, 0x6e);
const GRID: RGBColor = RGBColor(0xd8, 0xde, 0xe4);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Draws the comparison.
///
/// # Errors
/// Says what the backend says; in memory nothing is expected to fail.
pub fn svg(comparison: &Comparison) -> Result<String, String> {
    let mut image = String::new();
    let (width, height) = extent(&comparison.ratios);
    let area = SVGBackend::with_string(&mut image, (width as u32, height as u32)).into_drawing_area();
    draw(&area, comparison).map_err(|e| format!("drawing: {e}"))?;
    drop(area);
    Ok(image)
}

fn extent(rows: &[Row]) -> (i32, i32) {
    let panels: i32 = rows.chunks(COLUMNS).map(panels_height).sum();
    (2 * MARGIN + COLUMNS as i32 * PANEL_WIDTH, HEADING_HEIGHT + panels + MARGIN)
}

/// The height of panels that stand side by side.
fn panels_height(rows: &[Row]) -> i32 {
    rows.iter().map(|row| TITLE_HEIGHT + row.bars().count() as i32 * BAR_PITCH + AXIS_HEIGHT).max().unwrap_or(0)
}

fn draw(area: &Area, comparison: &Comparison) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&BACKGROUND)?;
    heading(area, comparison)?;
    let mut top = HEADING_HEIGHT;
    for side_by_side in comparison.ratios.chunks(COLUMNS) {
        for (column, row) in (0..).zip(side_by_side) {
            panel(area, row, (MARGIN + column * PANEL_WIDTH, top))?;
        }
        top += panels_height(side_by_side);
    }
    area.present()?;
    Ok(())
}

fn heading(area: &Area, comparison: &Comparison) -> Result<(), Box<dyn std::error::Error>> {
    let machine = &comparison.machine;
    let where_and_when = format!(
        "{} processors ({}), {}, one for the server, over loopback{}",
        machine.processors,
        machine.processor,
        machine.kernel,
        comparison.date().map(|date| format!(", {date}")).unwrap_or_default()
    );
    let what = "In terms of nginx: 1.00 is nginx with its defaults, longer is better whichever way the figure goes";
    text(area, what, (MARGIN, 28), &bold(19.0, &INK), HPos::Left)?;
    text(area, &where_and_when, (MARGIN, 50), &plain(14.0, &PALE_INK), HPos::Left)
}

fn panel(area: &Area, row: &Row, (left, top): (i32, i32)) -> Result<(), Box<dyn std::error::Error>> {
    let (title, rest) = split_title(&row.title);
    text(area, &capitalised(title), (left, top + 12), &bold(15.0, &INK), HPos::Left)?;
    let below = if rest.is_empty() { row.figure.clone() } else { format!("{rest}: {}", row.figure) };
    text(area, &below, (left, top + 30), &plain(14.0, &PALE_INK), HPos::Left)?;
    let origin = (left + LABEL_WIDTH, top + TITLE_HEIGHT);
    axis(area, origin, row.bars().count() as i32 * BAR_PITCH)?;
    for (number, (server, ratio)) in (0..).zip(row.bars()) {
        bar(area, server, ratio, (origin.0, origin.1 + number * BAR_PITCH))?;
    }
    Ok(())
}

/// Lines at every half; the one of nginx is darker.
fn axis(area: &Area, (left, top): (i32, i32), height: i32) -> Result<(), Box<dyn std::error::Error>> {
    for half in 0..=(RATIO_MAX * 2.0) as i32 {
        let x = left + half * UNIT_WIDTH / 2;
        let color = if half == 2 { PALE_INK } else { GRID };
        area.draw(&PathElement::new([(x, top - 4), (x, top + height)], color.stroke_width(1)))?;
        let ratio = format!("{:.1}", f64::from(half) / 2.0);
        text(area, &ratio, (x, top + height + 10), &plain(13.0, &PALE_INK), HPos::Center)?;
    }
    Ok(())
}

fn bar(area: &Area, server: &str, ratio: f64, (left, top): (i32, i32)) -> Result<(), Box<dyn std::error::Error>> {
    let middle = top + BAR_PITCH / 2;
    let (upper, lower) = (middle - BAR_HEIGHT / 2, middle - BAR_HEIGHT / 2 + BAR_HEIGHT);
    let end = left + length(ratio);
    let color = color(server);
    area.draw(&Rectangle::new([(left, upper), (end, lower)], color.filled()))?;
    if ratio > RATIO_MAX {
        for x in [end - 14, end - 9] {
            let slash = [(x, lower + 1), (x + 5, upper - 1)];
            area.draw(&PathElement::new(slash, BACKGROUND.stroke_width(2)))?;
        }
    }
    let name = if server == "highwater" { bold(14.0, &INK) } else { plain(14.0, &PALE_INK) };
    text(area, server, (left - 8, middle), &name, HPos::Right)?;
    let figure = figure(ratio);
    // The figure may lie on a line of the axis.
    let cleared = [(end + 2, upper), (end + 8 + figure.len() as i32 * DIGIT_WIDTH, lower)];
    area.draw(&Rectangle::new(cleared, BACKGROUND.filled()))?;
    text(area, &figure, (end + 6, middle), &plain(14.0, &INK), HPos::Left)
}

/// In pixels.
fn length(ratio: f64) -> i32 {
    (ratio.min(RATIO_MAX) * f64::from(UNIT_WIDTH)).round() as i32
}

/// Two digits behind the point while they say something.
fn figure(ratio: f64) -> String {
    if ratio < 9.995 { format!("{ratio:.2}") } else { format!("{ratio:.0}") }
}

/// Each program has its own colour, a variant of it a paler one.
fn color(server: &str) -> RGBColor {
    let (program, variant) = server.split_once('-').map_or((server, ""), |(program, variant)| (program, variant));
    match (program, variant) {
        ("highwater", "") => RGBColor(0x09, 0x69, 0xda),
        ("highwater", _) => RGBColor(0x80, 0xb9, 0xf5),
        ("nginx", "") => RGBColor(0x59, 0x63, 0x6e),
        ("nginx", _) => RGBColor(0xa6, 0xb0, 0xba),
        ("lighttpd", _) => RGBColor(0xbf, 0x87, 0x00),
        ("h2o", _) => RGBColor(0x82, 0x50, 0xdf),
        ("node", _) => RGBColor(0x1a, 0x7f, 0x37),
        ("floor", _) => RGBColor(0xe0, 0xc8, 0x9a),
        _ => RGBColor(0xcf, 0x22, 0x2e),
    }
}

/// A title that is too long for a line, at the last comma or space that fits.
fn split_title(title: &str) -> (&str, &str) {
    if title.chars().count() <= TITLE_LINE_CHARS {
        return (title, "");
    }
    let fits = title.char_indices().nth(TITLE_LINE_CHARS).map_or(title.len(), |(at, _)| at);
    let at = title[..fits].rfind(' ').unwrap_or(fits);
    (title[..at].trim_end_matches(','), title[at..].trim_start())
}

fn capitalised(title: &str) -> String {
    let mut chars = title.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn plain(size: f64, color: &'static RGBColor) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", size).into_font()).color(color)
}

fn bold(size: f64, color: &'static RGBColor) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", size).into_font().style(FontStyle::Bold)).color(color)
}

fn text(
    area: &Area,
    words: &str,
    at: (i32, i32),
    style: &TextStyle<'static>,
    side: HPos,
) -> Result<(), Box<dyn std::error::Error>> {
    area.draw(&Text::new(words, at, style.pos(Pos::new(side, VPos::Center))))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_ratio_until_the_end_of_the_axis() {
        for (ratio, expected) in [(0.0, 0), (0.5, 70), (1.0, 140), (1.5, 210), (2.0, 280), (25.0, 280)] {
            assert_eq!(length(ratio), expected, "{ratio}");
        }
    }

    #[test]
    fn a_long_title_is_split_between_words() {
        #[track_caller]
        fn check(title: &str, expected: (&str, &str)) {
            assert_eq!(split_title(title), expected);
        }
        check("1 KiB file, 32 connections", ("1 KiB file, 32 connections", ""));
        let (first, second) = ("wort ".repeat(13), "und noch eins");
        check(&format!("{first}{second}"), (first.trim_end(), second));
        let unbroken = "ü".repeat(70);
        check(&unbroken, (&unbroken[..2 * TITLE_LINE_CHARS], "üüüü"));
    }

    #[test]
    fn figures_have_three_digits_at_most() {
        for (ratio, expected) in [(0.1, "0.10"), (1.0, "1.00"), (9.994, "9.99"), (9.996, "10"), (24.6, "25")] {
            assert_eq!(figure(ratio), expected);
        }
    }
}
