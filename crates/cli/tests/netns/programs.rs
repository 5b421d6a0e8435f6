//! Programs under test: started, listened to, and never waited for without a bound.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::contract;

/// Longer than anything may take: the longest are 15 s without a path and 15 s of silence
/// from a peer that was killed, on a machine that is busy with other things.
pub(crate) const LIMIT: Duration = Duration::from_secs(45);

/// What is meant by "at once", on a machine that is busy with other things: clearly less
/// than the 15 s after which silence is noticed.
pub(crate) const SOON: Duration = Duration::from_secs(8);

/// Between two looks at whether a program that closed its output has ended.
const GLANCE: Duration = Duration::from_millis(2);

/// A line of standard output and when it came.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) at: Instant,
    pub(crate) text: String,
}

impl Line {
    /// The event; `null` when the line is not JSON.
    pub(crate) fn event(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

/// A running program. It is killed when dropped; if the case fails, it tells what it said.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Line>,
    heard: Vec<Line>,
    stderr: Arc<Mutex<String>>,
    stderr_ended: Receiver<()>,
    json: bool,
    ended: bool,
}

impl Program {
    /// Starts `command` as `name`. With `json`, what it says is held against the contract.
    pub(crate) fn start(name: &str, mut command: Command, json: bool) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = read_lines(child.stdout.take().unwrap());
        let stderr = Arc::default();
        let stderr_ended = read_all(child.stderr.take().unwrap(), &stderr);
        Self {
            name: name.to_owned(),
            stdin: child.stdin.take(),
            child,
            lines,
            heard: Vec::new(),
            stderr,
            stderr_ended,
            json,
            ended: false,
        }
    }

    /// Waits for an event; another one that ends the program fails the case.
    pub(crate) fn event(&mut self, kind: &str) -> Value {
        let event = self.event_before_end(kind);
        event.unwrap_or_else(|| panic!("{} did not say \"{kind}\"", self.name))
    }

    /// Waits for an event; `None` if another one ends the program.
    pub(crate) fn event_before_end(&mut self, kind: &str) -> Option<Value> {
        let deadline = Instant::now() + LIMIT;
        while let Some(line) = self.next_line(deadline) {
            let event = line.event();
            match event["event"].as_str() {
                Some(found) if found == kind => return Some(event),
                Some("error" | "done") => break,
                _ => {}
            }
        }
        None
    }

    /// Listens for so long, whatever is said.
    pub(crate) fn listen(&mut self, lasts: Duration) {
        let end = Instant::now() + lasts;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            match self.lines.recv_timeout(left) {
                Ok(line) => self.heard.push(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(left),
            }
        }
    }

    /// Waits for the code of a sender.
    pub(crate) fn code(&mut self) -> String {
        self.event("code")["code"].as_str().unwrap().to_owned()
    }

    /// Types something and closes standard input.
    pub(crate) fn types(&mut self, text: &str) {
        let mut stdin = self.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(id, signal).unwrap();
    }

    /// Kills the program, which gets no chance to do anything about it.
    pub(crate) fn kill(mut self) {
        self.ended = true;
        self.signal(Signal::SIGKILL);
        self.child.wait().unwrap();
    }

    /// Waits for success and returns the event `done`.
    pub(crate) fn succeeds(&mut self) -> Value {
        self.ends_well();
        self.heard.last().map(Line::event).unwrap_or_default()
    }

    /// Waits for success without complaints.
    pub(crate) fn ends_well(&mut self) {
        let code = self.exit_code();
        assert_eq!(code, Some(0), "{}'s exit code", self.name);
        let stderr = self.stderr();
        assert_eq!(stderr, "", "{} succeeded with complaints", self.name);
    }

    /// Waits for the success of a server that was told to stop: it may say who is left, and
    /// complains of nothing.
    pub(crate) fn drains(&mut self) {
        let code = self.exit_code();
        assert_eq!(code, Some(0), "{}'s exit code", self.name);
        for line in self.stderr().lines() {
            let parts = ["postern: takes no new clients", "postern: still in use"];
            let says_who_is_left = parts.iter().any(|part| line.starts_with(part));
            assert!(
                says_who_is_left,
                "{} drained with complaints: {line}",
                self.name
            );
        }
    }

    /// Waits for the end, whatever it is.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.exit_within(LIMIT)
    }

    /// Waits for a line that contains `part`.
    pub(crate) fn line_with(&mut self, part: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        while let Some(line) = self.next_line(deadline) {
            if line.text.contains(part) {
                return line.text;
            }
        }
        panic!("{} did not say {part:?}", self.name);
    }

    /// All lines of standard output so far.
    pub(crate) fn said(&self) -> String {
        let lines: Vec<&str> = self.heard.iter().map(|line| line.text.as_str()).collect();
        lines.join("\n")
    }

    /// Waits for a failure with this exit code and kind, and returns its sentence.
    pub(crate) fn fails(&mut self, code: i32, kind: &str) -> String {
        self.fails_within(LIMIT, code, kind)
    }

    pub(crate) fn fails_within(&mut self, limit: Duration, code: i32, kind: &str) -> String {
        let (found, sentence) = self.failure_within(limit);
        let said = self.heard.last().map(Line::event).unwrap_or_default();
        let expected = (Some(code), Some(kind));
        let found = (found, said["kind"].as_str());
        assert_eq!(found, expected, "{}: {sentence}", self.name);
        assert_eq!(said["message"], *sentence, "{} said two things", self.name);
        sentence
    }

    /// Waits for the end: the exit code, unless a signal ended it, and standard error.
    pub(crate) fn end_within(&mut self, limit: Duration) -> (Option<i32>, String) {
        (self.exit_within(limit), self.stderr())
    }

    /// Waits for any failure: its exit code and the sentence on standard error.
    pub(crate) fn failure_within(&mut self, limit: Duration) -> (Option<i32>, String) {
        let code = self.exit_within(limit);
        let sentence = contract::check_complaint(&self.stderr());
        (code, sentence)
    }

    /// Everything that was said, once the program has ended.
    pub(crate) fn heard(&self) -> &[Line] {
        &self.heard
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    fn exit_within(&mut self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        while self.next_line(deadline).is_some() {}
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "{} did not end", self.name);
            thread::sleep(GLANCE);
        };
        self.ended = true;
        let _ = self.stderr_ended.recv_timeout(SOON);
        if self.json {
            contract::check(&self.name, &self.heard, status.code());
        }
        status.code()
    }

    /// The next line, or `None` at the end of the output.
    fn next_line(&mut self, deadline: Instant) -> Option<Line> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                self.heard.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("{} says nothing more and hangs", self.name),
        }
    }

    /// Everything that was said, with the times since its first line.
    fn transcript(&mut self) -> String {
        self.heard.extend(self.lines.try_iter());
        let mut text = format!("--- {} ({})\n", self.name, self.child.id());
        let begin = self.heard.first().map(|line| line.at);
        for Line { at, text: line } in &self.heard {
            let seconds = begin.map_or(0.0, |begin| (*at - begin).as_secs_f64());
            text.push_str(&format!("{seconds:8.3} {line}\n"));
        }
        text + &self.stderr()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() || std::env::var_os("POSTERN_TEST_TELL").is_some() {
            let text = self.transcript();
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
        }
    }
}

fn read_lines(from: impl Read + Send + 'static) -> Receiver<Line> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for text in BufReader::new(from).lines().map_while(Result::ok) {
            let at = Instant::now();
            let _ = sender.send(Line { at, text });
        }
    });
    lines
}

/// Collects text; the receiver returns when there is no more.
fn read_all(mut from: impl Read + Send + 'static, to: &Arc<Mutex<String>>) -> Receiver<()> {
    let (ended, receiver) = mpsc::channel();
    let to = Arc::clone(to);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..count]);
            to.lock().unwrap().push_str(&text);
        }
        drop(ended);
    });
    receiver
}
