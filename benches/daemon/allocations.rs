//! How often a poll asks for memory, by what jemalloc counts: it prints its counts when a process
//! that was told so ends.

use serde_json::{Deserializer, Value};

use crate::stage::pause;
use crate::usage::number;
use crate::{SECOND, Scale, kind, polling_below};

/// All arenas together, as JSON.
const STATISTICS: [&str; 2] =
    ["env", "_RJEM_MALLOC_CONF=stats_print:true,stats_print_opts:Jablxeh"];
const SESSIONS: u64 = 1_000;

pub(crate) fn count(scale: &Scale) {
    for tls in [false, true] {
        for bearer in [true, false] {
            // What the start takes is the same in a short run and in a long one.
            let run = |time| {
                let sessions = SESSIONS.min(scale.sessions);
                let (_home, api, daemon) =
                    polling_below(&STATISTICS, tls, bearer, sessions, SECOND);
                pause(time);
                let counted = allocations(&daemon.stop())?;
                Some((number(counted), number(api.requests())))
            };
            let (Some(short), Some(long)) = (run(scale.time / 20), run(scale.time)) else {
                println!("*** LEFT OUT: allocations (needs the feature jemalloc)");
                return;
            };
            let each = (long.0 - short.0) / (long.1 - short.1);
            println!("{}: {each:.1} allocations a poll", kind(tls, bearer));
        }
    }
}

/// How many allocations a process has asked for that logged this.
fn allocations(log: &str) -> Option<u64> {
    let from = log.find("\"jemalloc\"").and_then(|name| log[..name].rfind('{'))?;
    let statistics = Deserializer::from_str(&log[from..]).into_iter::<Value>().next()?.ok()?;
    let merged = &statistics["jemalloc"]["stats.arenas"]["merged"];
    let requests = |size: &str| merged[size]["nrequests"].as_u64();
    Some(requests("small")? + requests("large")?)
}
