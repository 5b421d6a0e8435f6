//! `postern send`

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use postern::transfer::{self, SendError, Source, SourceError, escape};
use postern::{Connection, Invitation, MAX_WAIT};

use crate::config::ServerArguments;
use crate::explain::{self, Explainer};
use crate::failure::{Failure, chain};
use crate::output::{Event, Output};
use crate::progress::Progress;
use crate::session::{self, Outcome, PathArguments, Stage};

/// Options of `postern send`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    paths_allowed: PathArguments,
    /// How long to wait for the other side, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=MAX_WAIT.as_secs()))]
    wait: u64,
    /// Print one JSON object a line (docs/json.md)
    #[arg(long)]
    json: bool,
    /// The files to send
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
}

/// Sends files.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let (output, stage) = (Output::new(arguments.json), Stage::default());
    session::until_interrupted(&stage, send(&arguments, output, &stage)).await
}

async fn send(arguments: &Arguments, output: Output, stage: &Stage) -> Result<(), Failure> {
    let url = arguments.server.url()?;
    let source = Source::prepare(&arguments.paths).map_err(|error| unusable(&error))?;
    let endpoint = stage.bind(&url, &arguments.paths_allowed).await?;
    let invitation = endpoint
        .invite(&url, Duration::from_secs(arguments.wait))
        .await?;
    announce(arguments, output, &source, &invitation)?;
    let connection = invitation.connection().await;
    let connection = explain::before_failing(output, connection)?;
    let explainer = Explainer::follow(output, &connection, arguments.paths_allowed.explain());
    let result = deliver(output, &connection, source, explainer).await;
    session::end(&connection, result.is_ok());
    result
}

fn announce(
    arguments: &Arguments,
    output: Output,
    source: &Source,
    invitation: &Invitation,
) -> Result<(), Failure> {
    let code = invitation.code().to_string();
    let server = arguments.server.for_the_other_side();
    let what = match arguments.paths.as_slice() {
        [path] => path
            .file_name()
            .map_or_else(String::new, |name| escape(name.as_encoded_bytes())),
        _ => format!("{} files", source.files()),
    };
    let size = session::size(source.bytes());
    let minutes = arguments.wait.div_ceil(60);
    let line = format!(
        "Sending {what} ({size}). On the other computer, run:\n\n    \
         postern receive {server}{code}\n\n\
         Waiting for the other side, for {minutes} min at most."
    );
    output.must_say(&Event::Code { code: &code }, &line)
}

async fn deliver(
    output: Output,
    connection: &Connection,
    source: Source,
    explainer: Explainer,
) -> Result<(), Failure> {
    let (mut out, stream) = session::open(connection).await?;
    let following = crate::progress::follow_paths(output, connection);
    let mut progress = Progress::new(output);
    let result = transfer::send(source, &mut out, stream, |amount| progress.show(amount)).await;
    progress.finish();
    following.abort();
    explainer.finish();
    let summary = match result {
        Ok(summary) => summary,
        Err(error) => return Err(failed(&error, connection).await),
    };
    Outcome::new(summary, progress.seconds(), connection).tell(output, "Sent");
    Ok(())
}

fn unusable(error: &SourceError) -> Failure {
    Failure::failed(error.kind(), chain(error))
}

async fn failed(error: &SendError, connection: &Connection) -> Failure {
    let (kind, message) = (error.kind(), chain(error));
    match error {
        SendError::Refused(_) => Failure::peer(kind, message),
        SendError::Disconnected(_) => {
            let end = session::end_of(connection).await;
            Failure::failed(kind, end.unwrap_or(message))
        }
        SendError::PeerFailed(_)
        | SendError::Changed(_)
        | SendError::Read(..)
        | SendError::Invalid(_)
        | SendError::Violation(_) => Failure::failed(kind, message),
    }
}
