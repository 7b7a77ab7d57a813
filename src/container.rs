//! Containers: what to run ([`spec`], pure), how to run it ([`docker`]), and what must lie ready
//! on disk before it starts ([`prepare`]).
//!
//! Who starts, stops and judges them is the sweep alone.

pub mod docker;
pub mod prepare;
pub mod spec;
