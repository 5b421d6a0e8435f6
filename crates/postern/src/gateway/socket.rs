//! The socket on this machine over which an operator asks a running gateway: one JSON object
//! a line, each way.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::control::{Handle, LeaseInfo, Status};

/// Where the socket is unless told.
pub const DEFAULT_SOCKET: &str = "/run/postern/gateway.sock";

/// A question is short.
const MAX_QUESTION: u64 = 1024;

/// Whoever connects asks, and takes the answer, within so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Question {
    /// How is the gateway?
    Status,
    /// Which leases are there?
    List,
    /// Take this one back.
    Revoke {
        /// Its number.
        id: u64,
    },
    /// Take all back.
    Flush,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Question::Status`].
    Status(Status),
    /// To [`Question::List`].
    List {
        /// All leases.
        leases: Vec<LeaseInfo>,
    },
    /// To [`Question::Revoke`] and [`Question::Flush`].
    Revoked {
        /// How many leases were taken back.
        count: usize,
    },
}

/// Answers at a socket that root and its group may use, until the task is dropped.
///
/// # Errors
///
/// When the socket cannot be made.
pub fn serve(path: &Path, handle: Handle) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    // What is left of a run that ended badly.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let handle = handle.clone();
            tokio::spawn(async move {
                if let Ok(Err(error)) = timeout(PATIENCE, answer(stream, handle)).await {
                    tracing::debug!(%error, "a question could not be answered");
                }
            });
        }
    })
}

async fn answer(stream: UnixStream, handle: Handle) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(MAX_QUESTION))
        .read_line(&mut line)
        .await?;
    let answer = match serde_json::from_str(&line)? {
        Question::Status => handle.status().await.map(Answer::Status),
        Question::List => handle.list().await.map(|leases| Answer::List { leases }),
        Question::Revoke { id } => {
            let found = handle.revoke(id).await;
            found.map(|found| Answer::Revoked {
                count: usize::from(found),
            })
        }
        Question::Flush => handle.flush().await.map(|count| Answer::Revoked { count }),
    };
    let answer = answer.ok_or(io::ErrorKind::BrokenPipe)?;
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await
}

/// Asks the gateway that runs on this machine.
///
/// # Errors
///
/// `NotFound` or `ConnectionRefused` when none runs, `PermissionDenied` when it is not for
/// this user.
pub async fn ask(path: &Path, question: Question) -> io::Result<Answer> {
    let exchange = async {
        let mut stream = UnixStream::connect(path).await?;
        let mut bytes = serde_json::to_vec(&question)?;
        bytes.push(b'\n');
        stream.write_all(&bytes).await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        Ok(serde_json::from_str(&answer)?)
    };
    timeout(PATIENCE, exchange).await?
}
