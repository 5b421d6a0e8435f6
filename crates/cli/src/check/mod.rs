//! `postern check`: why can't they reach me?

mod page;
mod report;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use postern::check::{self, CheckError, Facts, LifetimeEvent, Options, Progress, Reach, Verdict};
use postern::turn::Proxy;

use crate::config::ServerArguments;
use crate::failure::{Failure, chain};
use crate::interrupt::interrupted;
use crate::output::{Output, note};
use crate::session;
use crate::stun::{self, StunServer};
use report::Report;

/// Exit codes of a check that ran (docs/check.md).
const BY_RELAY: u8 = 5;
const NOTHING: u8 = 6;

/// The pause between two looks of `--watch`.
const WATCH: Duration = Duration::from_secs(30);

/// Options of `postern check`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// A STUN server more to look from; may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    stun: Vec<StunServer>,
    /// Do not ask the router whether it opens ports
    #[arg(long)]
    no_gateway: bool,
    /// Measure how long an idle mapping lives, too: up to ten minutes, with a server that has two
    /// addresses
    #[arg(long)]
    lifetime: bool,
    /// The HTTP proxy on the way to the server; default: what HTTPS_PROXY and NO_PROXY say
    #[arg(long, value_name = "URL")]
    proxy: Option<Proxy>,
    /// Write a page with a drawing that can be shown to others
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Show whole addresses on that page; without it they are shortened
    #[arg(long, requires = "report")]
    full: bool,
    /// Look again every 30 s, and say what has changed, until interrupted
    #[arg(long, conflicts_with = "report")]
    watch: bool,
    /// Print a JSON object (docs/check.md)
    #[arg(long)]
    json: bool,
}

/// Looks at the network.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    tokio::select! {
        result = look(&arguments) => result.map_err(Failure::into_object),
        () = interrupted() => Err(Failure::interrupted()),
    }
}

async fn look(arguments: &Arguments) -> Result<(), Failure> {
    let output = Output::new(arguments.json);
    let options = arguments.options().await?;
    let mut last: Option<Verdict> = None;
    loop {
        let mut facts = once(options.clone(), output).await?;
        if arguments.lifetime {
            facts.lifetime = lifetime(&facts, output).await?;
        }
        let verdict = facts.verdict();
        if last.as_ref() != Some(&verdict) {
            tell(&facts, &verdict, output)?;
        }
        if let Some(path) = &arguments.report {
            let page = page::draw(&facts, &verdict, arguments.full);
            write(path, &page)?;
        }
        if !arguments.watch {
            return exit(verdict.reach);
        }
        last = Some(verdict);
        tokio::time::sleep(WATCH).await;
    }
}

async fn once(options: Options, output: Output) -> Result<Facts, Failure> {
    let bar = Bar::new(output);
    let facts = check::run(options, |progress| bar.show(progress)).await;
    bar.finish();
    facts.map_err(|error| failed(&error))
}

fn failed(error: &CheckError) -> Failure {
    match error {
        CheckError::Guarded => Failure::failed("guarded", error.to_string()),
        CheckError::NoNetwork => Failure::failed("no_network", error.to_string()),
        CheckError::Socket(_) | CheckError::Entropy(_) => Failure::failed("system", chain(error)),
    }
}

async fn lifetime(
    facts: &Facts,
    output: Output,
) -> Result<Option<(Duration, Option<Duration>)>, Failure> {
    let bar = Bar::new(output);
    let measured = check::lifetime(facts, |event| bar.show_wait(event)).await;
    bar.finish();
    match measured.map_err(|error| failed(&error))? {
        LifetimeEvent::Done { at_least, at_most } => Ok(Some((at_least, at_most))),
        LifetimeEvent::Waited { .. } | LifetimeEvent::Failed => {
            note(
                "how long idle mappings live was not measured: that takes a server with two addresses (`postern server --alternate-ip`)",
            );
            Ok(None)
        }
    }
}

fn tell(facts: &Facts, verdict: &Verdict, output: Output) -> Result<(), Failure> {
    let text = table::print(facts, verdict);
    output.report(&Report::new(facts, verdict), &text)
}

fn exit(reach: Reach) -> Result<(), Failure> {
    match reach {
        Reach::Open | Reach::Direct | Reach::Strict => Ok(()),
        Reach::Relay => Err(Failure::silent(BY_RELAY)),
        Reach::Nothing => Err(Failure::silent(NOTHING)),
    }
}

fn write(path: &std::path::Path, page: &str) -> Result<(), Failure> {
    std::fs::write(path, page).map_err(|error| {
        let why = format!("{} cannot be written: {error}", path.display());
        Failure::failed("report", why)
    })
}

impl Arguments {
    async fn options(&self) -> Result<Options, Failure> {
        let server = self.server.url()?;
        let proxy = session::proxy_for(&server, self.proxy.as_ref())?;
        Ok(Options {
            stun: stun::resolve(&self.stun).await?,
            proxy,
            gateway: !self.no_gateway,
            ..Options::new(server)
        })
    }
}

/// What is known already, on a terminal.
struct Bar(Option<indicatif::ProgressBar>);

impl Bar {
    fn new(output: Output) -> Self {
        let bar = output.has_terminal().then(|| {
            let bar = indicatif::ProgressBar::new_spinner();
            bar.set_message("asking the server");
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self(bar)
    }

    fn show(&self, progress: Progress) {
        if let Some(bar) = &self.0 {
            bar.set_message(match progress {
                Progress::Server => "looking at UDP and TCP",
                Progress::Udp => "UDP is known",
                Progress::Tcp => "TCP is known",
                Progress::Gateway => "the router is known",
            });
        }
    }

    fn show_wait(&self, event: LifetimeEvent) {
        if let (Some(bar), LifetimeEvent::Waited { idle, alive }) = (&self.0, event) {
            let seconds = idle.as_secs();
            bar.set_message(match alive {
                true => format!("a mapping has lived {seconds} s without traffic"),
                false => format!("no mapping lives {seconds} s without traffic"),
            });
        }
    }

    fn finish(self) {
        if let Some(bar) = self.0 {
            bar.finish_and_clear();
        }
    }
}
