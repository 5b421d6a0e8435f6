//! `postern check`: why can't they reach me?

mod drawing;
mod page;
mod report;
mod table;
mod watch;
mod ways;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    /// Look again and again, and say what has changed, until interrupted
    #[arg(long, conflicts_with = "report")]
    watch: bool,
    /// The pause between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "watch")]
    every: u64,
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
    let mut last: Option<(Facts, Verdict)> = None;
    loop {
        let mut facts = again(&options, last.as_ref().map(|(facts, _)| facts), output).await?;
        if arguments.lifetime {
            facts.lifetime = lifetime(&facts, output).await?;
        }
        let verdict = facts.verdict();
        tell(&facts, &verdict, last.as_ref(), output)?;
        if let Some(path) = &arguments.report {
            let page = page::draw(&facts, &verdict, arguments.full);
            write(path, &page)?;
        }
        if !arguments.watch {
            return exit(verdict.reach);
        }
        last = Some((facts, verdict));
        tokio::time::sleep(Duration::from_secs(arguments.every)).await;
    }
}

/// One look, which takes over from the one before what a server gives only so often: unless this
/// machine is in another network now.
async fn again(
    options: &Options,
    before: Option<&Facts>,
    output: Output,
) -> Result<Facts, Failure> {
    let Some(before) = before else {
        return once(options.clone(), output).await;
    };
    let frugal = Options {
        outside: false,
        ..options.clone()
    };
    let mut facts = once(frugal, output).await?;
    if (&facts.addresses, facts.udp.public_ip()) != (&before.addresses, before.udp.public_ip()) {
        return once(options.clone(), output).await;
    }
    facts.tcp.unsolicited = before.tcp.unsolicited;
    facts.other_port = before.other_port;
    facts.other_port_v6 = before.other_port_v6;
    facts.relays.clone_from(&before.relays);
    Ok(facts)
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

/// Everything at first, then what has changed.
fn tell(
    facts: &Facts,
    verdict: &Verdict,
    last: Option<&(Facts, Verdict)>,
    output: Output,
) -> Result<(), Failure> {
    let report = Report::new(facts, verdict);
    let Some((before, old)) = last else {
        return output.report(&report, &table::print(facts, verdict));
    };
    let mut changes = watch::changes(before, facts);
    if old.summary != verdict.summary {
        changes.insert(0, verdict.summary.clone());
    }
    if changes.is_empty() {
        return Ok(());
    }
    let text = format!("\n{} {}", now(), changes.join("\n         "));
    output.report(&report, &text)
}

/// The time of day.
fn now() -> String {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => {
            let seconds = since.as_secs() % 86_400;
            let (hours, rest) = (seconds / 3_600, seconds % 3_600);
            format!("{hours:02}:{:02}:{:02} UTC", rest / 60, rest % 60)
        }
        Err(_) => String::new(),
    }
}

fn exit(reach: Reach) -> Result<(), Failure> {
    match reach {
        Reach::Open | Reach::Direct | Reach::Strict | Reach::Tcp => Ok(()),
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

/// What is still awaited, on a terminal.
struct Bar {
    bar: Option<indicatif::ProgressBar>,
    awaited: Mutex<Vec<Progress>>,
}

/// In the order in which they are said.
const PARTS: [(Progress, &str); 5] = [
    (Progress::Server, "the server"),
    (Progress::Udp, "UDP"),
    (Progress::Tcp, "TCP"),
    (Progress::Gateway, "the router"),
    (Progress::Relays, "the relays"),
];

impl Bar {
    fn new(output: Output) -> Self {
        let bar = output.has_terminal().then(|| {
            let bar = indicatif::ProgressBar::new_spinner();
            bar.set_message("asking the server");
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self {
            bar,
            awaited: Mutex::new(PARTS.map(|(part, _)| part).to_vec()),
        }
    }

    fn show(&self, progress: Progress) {
        let Some(bar) = &self.bar else {
            return;
        };
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.retain(|part| *part != progress);
        let parts = PARTS.iter().filter(|(part, _)| awaited.contains(part));
        let names: Vec<_> = parts.map(|(_, name)| *name).collect();
        bar.set_message(format!("waiting for {}", names.join(", ")));
    }

    fn show_wait(&self, event: LifetimeEvent) {
        if let (Some(bar), LifetimeEvent::Waited { idle, alive }) = (&self.bar, event) {
            let seconds = idle.as_secs();
            bar.set_message(match alive {
                true => format!("a mapping has lived {seconds} s without traffic"),
                false => format!("no mapping lives {seconds} s without traffic"),
            });
        }
    }

    fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
