//! Pure functions over objects: JSON patch, merge patch, strategic merge patch, server-side apply.
//!
//! Objects are JSON values; how lists and maps merge is asked of the kind's [`SchemaRef`](kobune_kinds::SchemaRef).
//! Nothing here reads a clock or does I/O. What goes in as a null comes out as a null or is gone: the caller checks and
//! prunes the shape of what it gets back, as of any object.

mod apply;
mod compare;
mod conflict;
mod element;
mod error;
mod fieldset;
mod json_patch;
mod managed;
mod strategic;
mod structure;
mod track;

pub use apply::{apply, merge_configuration, mistakes, printed};
pub use conflict::Conflict;
pub use error::{ApplyError, PatchError};
pub use json_patch::{json_patch, merge_patch};
pub use strategic::strategic_merge_patch;
pub use track::track_update;
