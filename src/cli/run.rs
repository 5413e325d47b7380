use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::failure::SUCCESS;
use super::logging::{self, Logging};
use super::{ConfigFiles, Failure, privacy, runtime};
use crate::app::{self, Control};
use crate::config::Config;
use crate::notify::Service;

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigFiles,
}

/// Status of a process that a second signal ended: as a shell reports a SIGINT.
const INTERRUPTED: i32 = 130;

impl Run {
    pub(super) fn execute(self) -> Result<i32, Failure> {
        let config = self.config.load()?.complete()?;
        privacy::make_private_files();
        let logging = logging::start(&config.log)?;
        let runtime = runtime()?;
        let ended = runtime.block_on(async {
            let stop = CancellationToken::new();
            let (reloads, reload) = watch::channel(None);
            let service = Service::default();
            let signals = Signals {
                files: self.config,
                logging,
                reloads,
                stop: stop.clone(),
                service: service.clone(),
            };
            signals.listen()?;
            Ok(app::run(config, Control { stop, reload, service }).await?)
        });
        // A write that hangs must not keep the process from ending.
        runtime.shutdown_background();
        ended.map(|_: app::Ending| SUCCESS)
    }
}

struct Signals {
    files: ConfigFiles,
    logging: Logging,
    reloads: watch::Sender<Option<Config>>,
    stop: CancellationToken,
    service: Service,
}

impl Signals {
    /// SIGTERM and SIGINT stop, a second one ends at once; SIGHUP reloads.
    fn listen(self) -> Result<(), Failure> {
        let on = |kind| {
            signal(kind)
                .map_err(|error| Failure::failed(format!("signals can't be taken: {error}")))
        };
        let mut interrupt = on(SignalKind::interrupt())?;
        let mut terminate = on(SignalKind::terminate())?;
        let mut hangup = on(SignalKind::hangup())?;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(()) = interrupt.recv() => self.stop(),
                    Some(()) = terminate.recv() => self.stop(),
                    Some(()) = hangup.recv() => self.reload(),
                    else => return,
                }
            }
        });
        Ok(())
    }

    fn stop(&self) {
        if self.stop.is_cancelled() {
            std::process::exit(INTERRUPTED);
        }
        info!(
            "stopping: polls under way are finished and events written; a second signal ends at once"
        );
        self.stop.cancel();
    }

    fn reload(&self) {
        self.service.reloading();
        match self.files.load().map(|loaded| loaded.complete().map_err(Failure::from)) {
            Ok(Ok(config)) => {
                if let Err(failure) = self.logging.change(&config.log) {
                    error!("logging could not be changed: {failure}");
                }
                self.reloads.send_replace(Some(config));
            }
            Ok(Err(failure)) | Err(failure) => {
                error!("the configuration stays as it was, since the new one is unusable");
                for problem in failure.to_string().lines() {
                    error!("unusable: {problem}");
                }
                self.service.reloaded();
            }
        }
    }
}
