//! Containers: what to run ([`spec`], pure), how to run it ([`docker`]), what must lie ready on
//! disk before it starts ([`prepare`]), and which folders of the owner's it may see ([`mounts`]).
//!
//! Who starts, stops and judges them is the sweep alone.

pub mod docker;
pub mod mounts;
pub mod prepare;
mod skills;
pub mod spec;
