//! Which media type a file of a route has: what the route says of its ending, before what is known of endings.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::media_type;

/// The types of one route. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct ContentTypes(Arc<BTreeMap<String, String>>);

impl ContentTypes {
    /// With these of the route's own, by extension in lower case.
    pub fn new(own: BTreeMap<String, String>) -> Self {
        ContentTypes(Arc::new(own))
    }

    /// The type of a file at this path.
    pub fn of(&self, path: &[u8]) -> &str {
        if self.0.is_empty() {
            return media_type::of(path);
        }
        let extension = path.rsplit(|b| *b == b'.').next().unwrap_or_default().to_ascii_lowercase();
        let own = std::str::from_utf8(&extension).ok().and_then(|extension| self.0.get(extension));
        own.map_or_else(|| media_type::of(path), String::as_str)
    }
}
