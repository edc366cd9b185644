//! Images: archives, layers and the store, on real file systems.
