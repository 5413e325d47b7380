use std::io::Write;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::failure::SUCCESS;
use super::{Failure, runtime, told_to_stop};
use crate::sim::{PublicKey, Settings, Simulator};

#[derive(Debug, Args)]
pub(super) struct Simulate {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// The only SDK id that is let in
    #[arg(long, value_name = "ID", default_value = "00000000-0000-4000-8000-000000000000")]
    sdk_id: String,
    /// Key that signatures are verified with: PEM, public or private. Without one, everything
    /// but the signature is verified
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Sessions to begin with, whose applicants come at random
    #[arg(long, value_name = "N", default_value_t = 0)]
    sessions: usize,
    /// How long those sessions live
    #[arg(long, value_name = "TIME", default_value = "15d", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Within which time their applicants come
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    window: Duration,
    /// How many times faster than time applicants act
    #[arg(long, value_name = "N", default_value = "1")]
    speed: NonZeroU32,
    /// Decides ids, applicants and what befalls by chance
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl Simulate {
    pub(super) fn execute(self) -> Result<i32, Failure> {
        let mut settings = Settings::new(self.sdk_id);
        settings.listen = self.listen;
        settings.speed = self.speed;
        settings.seed = self.seed;
        if let Some(path) = &self.key {
            let pem = std::fs::read(path).map_err(|error| {
                Failure::unusable(format!("--key {}: can't be read: {error}", path.display()))
            })?;
            let key = PublicKey::parse(&pem)
                .map_err(|error| Failure::unusable(format!("--key {}: {error}", path.display())))?;
            settings.public_key = Some(key);
        }
        runtime()?.block_on(async {
            let simulator = Simulator::start(settings).await.map_err(|error| {
                Failure::failed(format!("can't listen on {}: {error}", self.listen))
            })?;
            let ids = simulator.create_random(self.sessions, self.ttl, self.window);
            {
                let mut out = anstream::stdout().lock();
                writeln!(out, "simulated Yoti API: {}", simulator.base_url())?;
                writeln!(out, "access tokens: {}", simulator.token_url())?;
                writeln!(out, "control: http://{}/_sim/sessions", simulator.address())?;
                for id in ids {
                    writeln!(out, "session {id}")?;
                }
                out.flush()?;
            }
            told_to_stop().await?;
            simulator.stop().await;
            Ok(SUCCESS)
        })
    }
}
