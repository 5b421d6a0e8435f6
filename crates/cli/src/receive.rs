//! `postern receive`

use std::io::{self, BufRead};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use postern::transfer::{self, Offer, OutputDir, ReceiveError, ReceivePolicy};
use postern::{Code, Connection};

use crate::config::ServerArguments;
use crate::explain::{self, Explainer};
use crate::failure::{Failure, chain};
use crate::output::{self, Output};
use crate::progress::Progress;
use crate::session::{self, Outcome, PathArguments, Stage};

/// The sender is there already, or the code is of no use: whoever has the code waits for
/// nobody.
const WAIT: Duration = Duration::from_secs(30);

/// Options of `postern receive`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    paths_allowed: PathArguments,
    /// The directory to put the files into
    #[arg(long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// Do not ask whether to accept
    #[arg(long)]
    yes: bool,
    /// Replace files that exist already
    #[arg(long)]
    overwrite: bool,
    /// Accept files whose names begin with a dot, which programs may obey
    #[arg(long)]
    hidden: bool,
    /// Print one JSON object a line (docs/json.md)
    #[arg(long)]
    json: bool,
    /// The code that the sender sees; asked for when it is not given
    #[arg(value_name = "CODE")]
    code: Option<String>,
}

/// Receives files.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let (output, stage) = (Output::new(arguments.json), Stage::default());
    session::until_interrupted(&stage, receive(&arguments, output, &stage)).await
}

async fn receive(arguments: &Arguments, output: Output, stage: &Stage) -> Result<(), Failure> {
    let url = arguments.server.url()?;
    let directory = OutputDir::open(&arguments.output);
    let directory = directory.map_err(|error| Failure::failed(error.kind(), chain(&error)))?;
    let code = code(arguments).await?;
    let endpoint = stage.bind(&url, &arguments.paths_allowed).await?;
    let connection = endpoint.join(&url, code, WAIT).await;
    let connection = explain::before_failing(output, connection)?;
    let result = take(arguments, output, &connection, directory).await;
    session::end(&connection, result.is_ok());
    result
}

async fn take(
    arguments: &Arguments,
    output: Output,
    connection: &Connection,
    directory: OutputDir,
) -> Result<(), Failure> {
    let following = crate::progress::follow_paths(output, connection);
    let explainer = Explainer::follow(output, connection, arguments.paths_allowed.explain());
    let (mut out, stream) = session::open(connection).await?;
    let policy = ReceivePolicy {
        overwrite: arguments.overwrite,
        hidden: arguments.hidden,
        ..ReceivePolicy::default()
    };
    let mut progress = Progress::new(output);
    let asking = AtomicBool::new(false);
    let accept = async |offer: &Offer| arguments.yes || ask(offer, &asking).await;
    let show = |amount| progress.show(amount);
    let receiving = transfer::receive(directory, policy, accept, &mut out, stream, show);
    let result = tokio::select! {
        biased;
        result = receiving => result,
        () = gone(connection, &asking) => Err(ReceiveError::Disconnected(None)),
    };
    progress.finish();
    following.abort();
    explainer.finish();
    let summary = match result {
        Ok(summary) => summary,
        Err(error) => return Err(failed(&error, connection).await),
    };
    Outcome::new(summary, progress.seconds(), connection).tell(output, "Received");
    Ok(())
}

/// The code from the command line, or from whoever is asked.
async fn code(arguments: &Arguments) -> Result<Code, Failure> {
    let text = match &arguments.code {
        Some(code) => code.clone(),
        None => prompt("Code: ".to_owned()).await.unwrap_or_default(),
    };
    text.trim().parse().map_err(|error: postern::CodeError| {
        Failure::failed("bad_code", error.to_string()).into_usage()
    })
}

/// Waits until the other side is gone while somebody is asked: the answer would be of no
/// use. At any other time the transfer notices by itself.
async fn gone(connection: &Connection, asking: &AtomicBool) {
    connection.closed().await;
    if !asking.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

async fn ask(offer: &Offer, asking: &AtomicBool) -> bool {
    asking.store(true, Ordering::Relaxed);
    let answer = prompt(format!("Receive {}? [Y/n] ", describe(offer))).await;
    asking.store(false, Ordering::Relaxed);
    matches!(
        answer.as_deref().map(str::trim),
        Some("" | "y" | "Y" | "yes")
    )
}

/// What is offered, in a line: the first names, and how much.
fn describe(offer: &Offer) -> String {
    const SHOWN: usize = 3;
    let names: Vec<String> = offer
        .listed
        .iter()
        .take(SHOWN)
        .map(|file| file.name.to_string())
        .collect();
    let more = offer.files.saturating_sub(names.len() as u64);
    let mut text = names.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    match offer.bytes {
        Some(bytes) => format!("{text} ({})", session::size(bytes)),
        None => text,
    }
}

/// Asks on the terminal; `None` when there is nobody to answer.
async fn prompt(question: String) -> Option<String> {
    let asked = tokio::task::spawn_blocking(move || {
        output::ask(&question);
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer).ok()?;
        (read > 0).then_some(answer)
    });
    asked.await.ok().flatten()
}

async fn failed(error: &ReceiveError, connection: &Connection) -> Failure {
    let kind = error.kind();
    if let ReceiveError::Disconnected(_) = error
        && let Some(end) = session::end_of(connection).await
    {
        return Failure::failed(kind, end);
    }
    if matches!(error, ReceiveError::Declined) {
        return Failure::peer(
            kind,
            "the files were declined; pass --yes to accept without being asked",
        );
    }
    if let ReceiveError::Hidden(name) = error {
        let advice = "pass --hidden to take it, or have it sent under another name";
        let message = format!("{name} is a hidden file, which programs may obey; {advice}");
        return Failure::failed(kind, message);
    }
    if let ReceiveError::Exists(name) = error {
        let advice = "choose another directory with --output, or pass --overwrite";
        return Failure::failed(kind, format!("{name} exists already; {advice}"));
    }
    Failure::failed(kind, chain(error))
}
