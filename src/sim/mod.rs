//! A simulated Yoti API on a real socket, for tests, the demo, and development.
