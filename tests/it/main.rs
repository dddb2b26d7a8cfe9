//! The binary as its users see it: real sockets, real files, ports that the kernel chooses. A module for each feature; the
//! names of the tests begin with the rule that they keep.

mod auth;
mod badinput;
mod clients;
mod dashboard;
mod embed;
mod events;
mod forms;
mod framing;
mod hot;
mod house;
mod killed;
mod library;
mod live;
mod live_clients;
mod media;
mod operations;
mod paths;
mod put;
mod queue;
mod ranges;
mod rates;
mod resumable;
mod support;
mod tus;
mod tus_clients;
mod upload_clients;
mod upload_cors;
mod uploads;
