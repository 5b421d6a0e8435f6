use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;

use super::{Flow, Session};
use crate::report::quantile;
use crate::sys::{BATCH, Inbox};

/// The victim sends this often.
const PACE: Duration = Duration::from_millis(1);

/// A round trip that takes longer is over, and counts as this long.
const OVER: Duration = Duration::from_millis(100);

/// The flooder does not make up for more than this: its own processor was away.
const ARREARS: f64 = 64.0;

/// What one client sees of a server that another one floods.
#[derive(Debug, Clone, Copy)]
pub struct Fairness {
    /// Microseconds that 99 of 100 round trips take at most.
    pub p99: f64,
    /// Packets of the flood a second that came out.
    pub flood: f64,
}

/// The round trips of a paced victim for some time, while a flooder sends `rate` packets a
/// second; 0: none. The kernel stamps packets as they arrive, so the load's own delays are
/// not in the figures.
pub fn fairness(victim: &Session, flooder: &Flow, rate: f64, time: Duration) -> Result<Fairness> {
    let mut pings = Pings::new(victim)?;
    let mut inbox = Inbox::new(BATCH, 8);
    let (begin, mut sent, mut arrived) = (Instant::now(), 0.0, 0);
    while begin.elapsed() < time {
        pings.advance()?;
        let due = begin.elapsed().as_secs_f64() * rate;
        if due - sent >= 1.0 {
            flooder.send_one()?;
            sent = f64::max(sent + 1.0, due - ARREARS);
        }
        arrived += flooder.take(&mut inbox);
    }
    Ok(Fairness {
        p99: quantile(&pings.times, 0.99),
        flood: arrived as f64 / begin.elapsed().as_secs_f64(),
    })
}

/// A round trip after the other.
struct Pings<'a> {
    there: &'a Flow,
    back: &'a Flow,
    state: State,
    next: Instant,
    /// Microseconds.
    times: Vec<f64>,
}

#[derive(Clone, Copy)]
enum State {
    Idle,
    /// On its way to the peer since then.
    There(Duration),
    /// On its way back since then; the way there took so long.
    Back(Duration, Duration),
}

impl<'a> Pings<'a> {
    fn new(victim: &'a Session) -> Result<Self> {
        let back = victim.back.as_ref().context("no way back")?;
        for flow in [&victim.flow, back] {
            setsockopt(flow.out(), sockopt::ReceiveTimestampns, &true)?;
        }
        Ok(Self {
            there: &victim.flow,
            back,
            state: State::Idle,
            next: Instant::now(),
            times: Vec::new(),
        })
    }

    fn advance(&mut self) -> Result<()> {
        self.state = match self.state {
            State::Idle if Instant::now() < self.next => State::Idle,
            State::Idle => {
                self.next += PACE;
                let now = clock()?;
                self.there.send_one()?;
                State::There(now)
            }
            State::There(since) => match arrival(self.there.out())? {
                Some(at) if at >= since => {
                    let now = clock()?;
                    self.back.send_one()?;
                    State::Back(now, at.saturating_sub(since))
                }
                // One that was given up comes after all.
                Some(_) | None => self.unless_over(since)?,
            },
            State::Back(since, there) => match arrival(self.back.out())? {
                Some(at) if at >= since => self.done(there + at.saturating_sub(since)),
                Some(_) | None => self.unless_over(since)?,
            },
        };
        Ok(())
    }

    fn unless_over(&mut self, since: Duration) -> Result<State> {
        if clock()?.saturating_sub(since) < OVER {
            return Ok(self.state);
        }
        Ok(self.done(OVER))
    }

    fn done(&mut self, time: Duration) -> State {
        self.times.push(time.as_secs_f64() * 1e6);
        self.next = self.next.max(Instant::now());
        State::Idle
    }
}

/// The clock of the kernel's stamps.
fn clock() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

/// When the packet arrived that is at the socket, if there is one.
fn arrival(socket: &UdpSocket) -> Result<Option<Duration>> {
    let mut control = nix::cmsg_space!(TimeSpec, i32);
    let mut buffer = [0; 2048];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags);
    let Ok(message) = message else {
        return Ok(None);
    };
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmTimestampns(stamp) = control {
            return Ok(Some(Duration::from(stamp)));
        }
    }
    anyhow::bail!("the kernel gives no time of arrival")
}
