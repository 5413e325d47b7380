//! The Yoti API: signed requests, lenient wire types, and every answer as an `Observation`.
