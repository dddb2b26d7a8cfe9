//! The program: a result in, an image out, or a line that says what is wrong.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// The ends of the axis, in pixels of a bar: a ratio of 1, and the longest.
const UNIT: f64 = 140.0;
const LONGEST: f64 = 280.0;

fn result() -> Value {
    json!({
        "machine": { "processor": "P <&>", "processors": 2, "kernel": "Linux 6", "memory_gib": 1.0 },
        "parts": [{ "date": "2026-01-02", "command": "./tools/versus" }],
        "rows": [],
        "ratios": [
            { "title": "1 KiB file", "figure": "requests/s", "servers": [
                { "server": "highwater", "ratio": 1.3 },
                { "server": "nginx", "ratio": 1.0 },
                { "server": "h2o", "ratio": null },
            ] },
            { "title": "1 MiB file", "figure": "CPU ms/GB", "servers": [
                { "server": "highwater", "ratio": 24.0 },
                { "server": "nginx", "ratio": 1.0 },
                { "server": "floor-splice", "ratio": 0.5 },
            ] },
        ],
    })
}

/// The image of `input`, or what was said instead.
fn plot(input: &str) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.svg");
    let mut child = Command::new(env!("CARGO_BIN_EXE_plot"))
        .arg("-")
        .arg(&image)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    if status.success() {
        return Ok(fs::read_to_string(image).unwrap());
    }
    assert!(!image.exists(), "an image was left behind");
    Err(String::from_utf8(stderr).unwrap())
}

/// The widths of the rectangles of this colour.
fn widths(svg: &str, fill: &str) -> Vec<f64> {
    let rectangles = svg.lines().filter(|line| line.starts_with("<rect") && line.contains(fill));
    rectangles.map(|line| line.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn each_pair_has_a_bar_as_long_as_its_ratio() {
    let svg = plot(&result().to_string()).unwrap();
    assert_eq!(widths(&svg, "#0969DA"), [1.3 * UNIT, LONGEST]);
    assert_eq!(widths(&svg, "#59636E"), [UNIT, UNIT]);
    assert_eq!(widths(&svg, "#E0C89A"), [0.5 * UNIT]);
    assert!(widths(&svg, "#8250DF").is_empty(), "what was not measured has no bar");
}

#[test]
fn rows_servers_and_figures_are_named() {
    let svg = plot(&result().to_string()).unwrap();
    for name in ["1 KiB file", "CPU ms/GB", "highwater", "floor-splice", "1.30", "24"] {
        assert!(svg.contains(&format!("\n{name}\n")), "{name}");
    }
    let caption = svg.lines().find(|line| line.starts_with("2 processors")).unwrap();
    assert!(caption.contains("P &lt;&amp;&gt;") && caption.contains("Linux 6") && caption.ends_with("2026-01-02"));
    assert!(!svg.contains("h2o"));
}

#[test]
fn what_can_not_be_drawn_is_said() {
    #[track_caller]
    fn check(input: &str, expected: &str) {
        let message = plot(input).unwrap_err();
        assert!(message.starts_with("plot: -: ") && message.contains(expected), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    check("", "not a result of tools/versus: EOF");
    check("{}", "missing field `ratios`");
    let changed = |path: &str, value: Value| {
        let mut result = result();
        *result.pointer_mut(path).unwrap() = value;
        result.to_string()
    };
    check(&changed("/ratios", json!([])), "no row has a ratio to nginx");
    check(&changed("/ratios/0/servers/0/ratio", json!(-1.0)), "1 KiB file: highwater: a ratio below 0");
    check(&changed("/ratios/0/servers/0/ratio", json!("much")), "invalid type: string \"much\"");
}

#[test]
fn a_result_that_is_not_there_is_said() {
    let output = Command::new(env!("CARGO_BIN_EXE_plot")).args(["nowhere.json", "image.svg"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("plot: nowhere.json: No such file"));
}
