//! Handlers: each answers requests of one kind, and none knows another.

pub mod admin;
pub mod events;
pub mod guard;
pub mod live;
pub mod media;
pub mod queue;
pub mod upload;
