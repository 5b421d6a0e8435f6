//! A program of the world that talks in lines, one JSON object each.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How often a wait looks whether the program has ended.
const GLANCE: Duration = Duration::from_millis(5);

/// How long to wait for the last words of a program that has ended: they come as soon as
/// their reader runs, unless a child of the program keeps the pipe open.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A running program whose output is read as it comes; dropping it kills the program.
///
/// What it prints is kept until it is asked for, so the program never waits for a reader.
#[derive(Debug)]
pub struct Program {
    child: Child,
    output: Receiver<String>,
    complaints: Receiver<String>,
}

impl Program {
    /// Starts a command, such as one of [`World::command`](super::World::command), with
    /// pipes for its input and output.
    ///
    /// # Errors
    ///
    /// The program cannot be started.
    pub fn start(mut command: Command) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let output = lines(child.stdout.take());
        let complaints = lines(child.stderr.take());
        Ok(Self {
            child,
            output,
            complaints,
        })
    }

    /// The next line of its standard output without the end of line; `None` if there is
    /// none within `patience`, or the output has ended.
    pub fn line(&mut self, patience: Duration) -> Option<String> {
        self.output.recv_timeout(patience).ok()
    }

    /// The next line of its standard output that is an object with `"event": name`; other
    /// lines before it are skipped. `None` if there is none within `patience`.
    pub fn event(&mut self, name: &str, patience: Duration) -> Option<Value> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let object: Option<Value> = serde_json::from_str(&self.line(left)?).ok();
            if let Some(object) = object.filter(|object| object["event"] == name) {
                return Some(object);
            }
        }
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    ///
    /// The program does not read any more.
    pub fn tell(&mut self, line: &str) -> io::Result<()> {
        match &mut self.child.stdin {
            Some(stdin) => writeln!(stdin, "{line}"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// How it ended; `None` if it still runs after `patience`.
    ///
    /// # Errors
    ///
    /// The system cannot say.
    pub fn end(&mut self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        loop {
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() >= deadline {
                return Ok(ended);
            }
            thread::sleep(GLANCE);
        }
    }

    /// What it has printed on standard error since this was last asked. After
    /// [`Program::end`] this is all of it.
    pub fn complaints(&mut self) -> String {
        let running = matches!(self.child.try_wait(), Ok(None));
        let patience = if running { Duration::ZERO } else { LAST_WORDS };
        let mut text = String::new();
        loop {
            match self.complaints.recv_timeout(patience) {
                Ok(line) => text = text + &line + "\n",
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return text,
            }
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as a power cut would.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Reads a pipe to its end on a thread of its own.
fn lines(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(pipe) = pipe {
        thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while let Ok(1..) = reader.read_until(b'\n', &mut line) {
                let text = String::from_utf8_lossy(&line);
                if sender.send(text.trim_end().to_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Program {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Program::start(command).unwrap()
    }

    #[test]
    fn events_are_found_among_other_lines() {
        let script = r#"echo hello; echo '{"event":"code","code":"7"}'; echo bye"#;
        let mut program = shell(script);
        let code = program.event("code", PATIENCE).unwrap();
        assert_eq!(code["code"], "7");
        assert_eq!(program.line(PATIENCE).as_deref(), Some("bye"));
        assert_eq!(program.event("done", PATIENCE), None);
    }

    #[test]
    fn the_end_and_the_complaints_are_told() {
        let mut program = shell("read word; echo no $word >&2; exit 3");
        assert!(program.end(Duration::ZERO).unwrap().is_none());
        program.tell("file").unwrap();
        let status = program.end(PATIENCE).unwrap().unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(program.complaints(), "no file\n");
    }

    #[test]
    fn a_dropped_program_is_dead() {
        let program = shell("sleep 60");
        let path = format!("/proc/{}", program.id());
        assert!(std::path::Path::new(&path).exists());
        drop(program);
        assert!(!std::path::Path::new(&path).exists());
    }
}
