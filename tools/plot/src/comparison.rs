//! What is drawn, out of the result that `tools/versus` writes: its `ratios`, and where they were measured.

use serde::Deserialize;

/// The drawn part of a result.
#[derive(Debug, Deserialize)]
pub struct Comparison {
    /// A panel each.
    pub ratios: Vec<Row>,
    /// Where.
    pub machine: Machine,
    /// When; a result may be merged of several.
    pub parts: Vec<Part>,
}

/// A row of the comparison.
#[derive(Debug, Deserialize)]
pub struct Row {
    /// What was asked for.
    pub title: String,
    /// What is compared.
    pub figure: String,
    /// A bar each, in this order.
    pub servers: Vec<Bar>,
}

/// A server in a row.
#[derive(Debug, Deserialize)]
pub struct Bar {
    /// Its name.
    pub server: String,
    /// Its figure in terms of nginx, above 1 better; null where it was not measured.
    pub ratio: Option<f64>,
}

/// The machine, as far as a caption names it.
#[derive(Debug, Deserialize)]
pub struct Machine {
    /// The processor's model.
    pub processor: String,
    /// How many there are.
    pub processors: u32,
    /// The kernel's name and release.
    pub kernel: String,
}

/// One run.
#[derive(Debug, Deserialize)]
pub struct Part {
    /// The day, YYYY-MM-DD.
    pub date: String,
}

impl Comparison {
    /// Reads a result.
    ///
    /// # Errors
    /// One line that says what is missing or can't be drawn.
    pub fn parse(text: &str) -> Result<Comparison, String> {
        let comparison: Comparison =
            serde_json::from_str(text).map_err(|e| format!("not a result of tools/versus: {e}"))?;
        if comparison.ratios.is_empty() {
            return Err("no row has a ratio to nginx; measure nginx too".to_string());
        }
        for row in &comparison.ratios {
            if let Some(bar) = row.servers.iter().find(|bar| bar.ratio.is_some_and(|ratio| ratio < 0.0)) {
                return Err(format!("{}: {}: a ratio below 0 has no bar", row.title, bar.server));
            }
        }
        Ok(comparison)
    }

    /// The last day on which something of it was measured.
    pub fn date(&self) -> Option<&str> {
        self.parts.iter().map(|part| part.date.as_str()).max()
    }
}

impl Row {
    /// The servers that were measured.
    pub fn bars(&self) -> impl Iterator<Item = (&str, f64)> {
        self.servers.iter().filter_map(|bar| Some((bar.server.as_str(), bar.ratio?)))
    }
}
