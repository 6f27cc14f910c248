//! The crate seen from outside, against plain references and an independent dissector.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

mod dissect;
mod ecn;
mod flow;
mod flows;
mod fragment;
mod merge;
mod merge_model;
mod mss;
mod neighbour;
mod never_panics;
mod outer;
mod packet;
mod probe;
mod recover;
mod search;
mod split;
mod strategies;
mod stream;
mod too_big;
mod vectors;
