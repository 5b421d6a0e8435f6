//! Channels (RFC 8656 section 12).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::turn::ChannelNumber;

use super::after;
use super::config::MAX_CHANNELS;
use super::event::{Event, Failure};
use super::machine::Client;
use super::requests::Purpose;
use super::timers::Timer;

/// How long the server keeps a binding (RFC 8656 section 12).
const LIFETIME: Duration = Duration::from_secs(600);
/// When to refresh it: with so much left that a lost request does no harm.
const REFRESH: Duration = Duration::from_secs(480);
/// A channel that was not used since its last refresh but so long is left to end.
const IDLE: Duration = Duration::from_secs(300);
/// How long neither number nor peer go into another binding (RFC 8656 section 12).
const COOLDOWN: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Binding,
    Bound {
        until: Instant,
    },
    /// Ended: may be bound again, to the same peer only.
    Cooling,
    /// The server refused it: not used for this peer until it has cooled down.
    Refused,
}

#[derive(Debug, Clone, Copy)]
struct Channel {
    peer: SocketAddr,
    state: State,
    used: Instant,
}

/// All bindings, by number and by peer.
#[derive(Debug, Default)]
pub(super) struct Channels {
    by_number: BTreeMap<ChannelNumber, Channel>,
    by_peer: BTreeMap<SocketAddr, ChannelNumber>,
}

impl Channels {
    fn channel_of(&self, peer: SocketAddr) -> Option<(ChannelNumber, &Channel)> {
        let number = *self.by_peer.get(&peer)?;
        Some((number, self.by_number.get(&number)?))
    }

    pub(super) fn peer_of(&self, number: ChannelNumber) -> Option<SocketAddr> {
        self.by_number.get(&number).map(|channel| channel.peer)
    }

    /// The lowest number that is in no binding.
    fn free(&self) -> Option<ChannelNumber> {
        let (min, max) = (ChannelNumber::MIN.number(), ChannelNumber::MAX.number());
        let mut numbers = (min..=max).filter_map(|number| ChannelNumber::new(number).ok());
        numbers
            .find(|number| !self.by_number.contains_key(number))
            .filter(|_| self.by_number.len() < MAX_CHANNELS)
    }

    fn remove(&mut self, number: ChannelNumber) {
        if let Some(channel) = self.by_number.remove(&number) {
            self.by_peer.remove(&channel.peer);
        }
    }
}

impl Client {
    /// The channel that is bound to a peer: what it sends there may go as ChannelData.
    ///
    /// It counts as use for the channel and the permission, so call it once for each train
    /// of datagrams that a driver frames itself.
    pub fn channel_of(&mut self, now: Instant, peer: SocketAddr) -> Option<ChannelNumber> {
        let number = *self.channels.by_peer.get(&peer)?;
        let channel = self.channels.by_number.get_mut(&number)?;
        channel.used = now;
        let bound = matches!(channel.state, State::Bound { .. });
        self.touch_permission(now, peer.ip());
        bound.then_some(number)
    }

    /// The peer of a channel on which data may arrive.
    #[must_use]
    pub fn peer_of(&self, channel: ChannelNumber) -> Option<SocketAddr> {
        self.channels.peer_of(channel)
    }

    /// Binds a channel to the peer unless there is one, or was one that failed.
    pub(super) fn bind_channel(&mut self, now: Instant, peer: SocketAddr) {
        let known = self.channels.channel_of(peer);
        let number = match known.map(|(number, channel)| (number, channel.state)) {
            Some((number, State::Cooling)) => number,
            Some(_) => return,
            None => match self.channels.free() {
                Some(number) => number,
                None => return,
            },
        };
        let channel = Channel {
            peer,
            state: State::Binding,
            used: now,
        };
        self.channels.by_number.insert(number, channel);
        self.channels.by_peer.insert(peer, number);
        self.timers.clear(Timer::Channel(number));
        self.ask(now, Purpose::Bind(number));
    }

    pub(super) fn on_channel_bound(&mut self, now: Instant, number: ChannelNumber) {
        let Some(channel) = self.channels.by_number.get_mut(&number) else {
            return;
        };
        let news = !matches!(channel.state, State::Bound { .. });
        let until = after(now, LIFETIME);
        channel.state = State::Bound { until };
        let peer = channel.peer;
        let refresh = after(now, REFRESH);
        self.timers.set(Timer::Channel(number), refresh);
        if news {
            let channel = number;
            self.events.push_back(Event::ChannelBound { peer, channel });
        }
        self.on_permitted(now, peer.ip());
    }

    pub(super) fn on_channel_refused(
        &mut self,
        now: Instant,
        number: ChannelNumber,
        failure: Failure,
    ) {
        let Some(channel) = self.channels.by_number.get(&number).copied() else {
            return;
        };
        match channel.state {
            State::Bound { until } if failure == Failure::TimedOut && now < until => {
                self.ask(now, Purpose::Bind(number));
            }
            State::Bound { .. } | State::Binding | State::Cooling | State::Refused => {
                tracing::debug!(%failure, "no channel");
                self.end_channel(now, number, State::Refused);
            }
        }
    }

    pub(super) fn on_channel_timer(&mut self, now: Instant, number: ChannelNumber) {
        let Some(channel) = self.channels.by_number.get(&number).copied() else {
            return;
        };
        match channel.state {
            State::Binding => {}
            State::Bound { until } if now < until => {
                self.timers.set(Timer::Channel(number), until);
                if now < after(channel.used, IDLE) {
                    self.ask(now, Purpose::Bind(number));
                }
            }
            State::Bound { .. } => self.end_channel(now, number, State::Cooling),
            State::Cooling | State::Refused => self.channels.remove(number),
        }
    }

    /// The requests have been forgotten: those for channels are made again, whatever they were
    /// for.
    pub(super) fn ask_channels_again(&mut self, now: Instant) {
        let live = |state| matches!(state, State::Binding | State::Bound { .. });
        let binding = self.channels.by_number.iter();
        let binding = binding.filter(|(_, channel)| live(channel.state));
        let binding: Vec<_> = binding.map(|(number, _)| *number).collect();
        for number in binding {
            self.ask(now, Purpose::Bind(number));
        }
    }

    fn end_channel(&mut self, now: Instant, number: ChannelNumber, end: State) {
        let Some(channel) = self.channels.by_number.get_mut(&number) else {
            return;
        };
        let was_bound = matches!(channel.state, State::Bound { .. });
        channel.state = end;
        let peer = channel.peer;
        let cooled = after(now, COOLDOWN);
        self.timers.set(Timer::Channel(number), cooled);
        if was_bound {
            let channel = number;
            self.events.push_back(Event::ChannelEnded { peer, channel });
        }
    }
}
