//! The tables of what is passed on as it comes: events, queues, and media while it is made.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Section, Table, Value, Wrong, boolean, checked, list, number, origins, parsed, set, string, wrong};
use crate::config::{EventsConfig, LiveConfig, QueueConfig, absolute, events, queue, upload};
use crate::limits::Unit;

pub(super) fn events(value: &Value<'_>, dir: &Path) -> Result<EventsConfig, Wrong> {
    let table = Table::of(Section::Events, value)?;
    let mut config = EventsConfig::default();
    set(&mut config.history_events, table.leaf("history_events", count)?);
    set(&mut config.history_bytes, table.leaf("history_bytes", bytes)?);
    set(&mut config.history_age, table.leaf("history_age", time)?);
    config.journal = table.leaf("journal", |value| journal(value, dir))?;
    set(&mut config.journal_bytes, table.leaf("journal_bytes", journal_bytes)?);
    set(&mut config.journal_sync, table.leaf("journal_sync", boolean)?);
    set(&mut config.memory, table.leaf("memory", bytes)?);
    set(&mut config.topics, table.leaf("topics", some)?);
    set(&mut config.subscribers, table.leaf("subscribers", count)?);
    set(&mut config.event_len, table.leaf("event_len", event_len)?);
    set(&mut config.backlog, table.leaf("backlog", bytes)?);
    set(&mut config.on_lag, table.leaf("on_lag", parsed)?);
    set(&mut config.heartbeat, table.leaf("heartbeat", |value| within(value, events::check_heartbeat))?);
    config.retry = table.leaf("retry", time)?;
    config.origins = table.leaf("origins", origins)?;
    set(&mut config.credentials, table.leaf("credentials", boolean)?);
    config.check().map_err(|what| wrong(value, what))?;
    Ok(config)
}

pub(super) fn queue(value: &Value<'_>, dir: &Path) -> Result<QueueConfig, Wrong> {
    let table = Table::of(Section::Queue, value)?;
    let mut config =
        QueueConfig { journal: table.leaf("journal", |value| journal(value, dir))?, ..QueueConfig::default() };
    set(&mut config.journal_bytes, table.leaf("journal_bytes", journal_bytes)?);
    set(&mut config.journal_sync, table.leaf("journal_sync", boolean)?);
    set(&mut config.memory, table.leaf("memory", bytes)?);
    set(&mut config.queues, table.leaf("queues", some)?);
    set(&mut config.queue_bytes, table.leaf("queue_bytes", |value| number(value, Unit::Bytes))?);
    set(&mut config.queue_items, table.leaf("queue_items", some)?);
    set(&mut config.item_len, table.leaf("item_len", event_len)?);
    set(&mut config.lease, table.leaf("lease", |value| within(value, queue::check_lease))?);
    config.origins = table.leaf("origins", origins)?;
    config.check().map_err(|what| wrong(value, what))?;
    Ok(config)
}

pub(super) fn live(value: &Value<'_>) -> Result<LiveConfig, Wrong> {
    let table = Table::of(Section::Live, value)?;
    let mut config = LiveConfig::default();
    let patterns = |value| list(value, |value| checked(value, upload::check_pattern));
    set(&mut config.on_second_encoder, table.leaf("on_second_encoder", parsed)?);
    set(&mut config.whole, table.leaf("whole", patterns)?);
    set(&mut config.name_patterns, table.leaf("name_patterns", patterns)?);
    set(&mut config.delete, table.leaf("delete", boolean)?);
    set(&mut config.file_len, table.leaf("file_len", |value| number(value, Unit::Bytes))?);
    set(&mut config.fsync, table.leaf("fsync", parsed)?);
    Ok(config)
}

/// A directory that is made when the server starts; its parent is there.
fn journal(value: &Value<'_>, dir: &Path) -> Result<PathBuf, Wrong> {
    let path = absolute(dir, Path::new(string(value)?)).map_err(|what| wrong(value, what))?;
    match path.parent() {
        Some(parent) if !parent.is_dir() => {
            Err(wrong(value, format!("`{}` does not exist: create it, or write another directory", parent.display())))
        }
        _ if path.exists() && !path.is_dir() => {
            Err(wrong(value, format!("`{}` is not a directory: write one of the journal's own", path.display())))
        }
        _ => Ok(path),
    }
}

fn journal_bytes(value: &Value<'_>) -> Result<u64, Wrong> {
    let bytes = number(value, Unit::Bytes)?;
    events::check_journal_bytes(bytes).map_err(|what| wrong(value, what))?;
    Ok(bytes)
}

fn event_len(value: &Value<'_>) -> Result<usize, Wrong> {
    let len = bytes(value)?;
    events::check_event_len(len).map_err(|what| wrong(value, what))?;
    Ok(len)
}

fn count(value: &Value<'_>) -> Result<usize, Wrong> {
    number(value, Unit::Count).map(saturated)
}

/// At least one.
fn some(value: &Value<'_>) -> Result<usize, Wrong> {
    let count = count(value)?;
    events::check_count(count).map_err(|what| wrong(value, what))?;
    Ok(count)
}

fn bytes(value: &Value<'_>) -> Result<usize, Wrong> {
    number(value, Unit::Bytes).map(saturated)
}

fn saturated(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn time(value: &Value<'_>) -> Result<Duration, Wrong> {
    number(value, Unit::Time).map(Duration::from_millis)
}

fn within(value: &Value<'_>, check: impl FnOnce(Duration) -> Result<(), String>) -> Result<Duration, Wrong> {
    let time = time(value)?;
    check(time).map_err(|what| wrong(value, what))?;
    Ok(time)
}
