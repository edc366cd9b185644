//! Text to [`Project`](crate::model::Project): in phases, every value with its place.
