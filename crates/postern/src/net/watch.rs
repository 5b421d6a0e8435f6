//! When the addresses of this machine may have changed.
//!
//! On Linux the kernel tells (rtnetlink); elsewhere, and where it does not, somebody looks now and
//! then. Either is a hint to look: what has changed is found by comparing.

#[cfg(target_os = "linux")]
use std::io;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
#[cfg(target_os = "linux")]
use tokio::net::UnixDatagram;
use tokio::time::{MissedTickBehavior, interval, timeout};

#[cfg(target_os = "linux")]
use crate::os::netlink::{tells_change, watch_addresses};

/// Longer than what the kernel tells of one change.
#[cfg(target_os = "linux")]
const TOLD: usize = 16 * 1024;

/// How often to look where nobody tells: a path that is lost is noticed within 2 s.
const LOOK: Duration = Duration::from_secs(2);

/// An interface that comes up gets its addresses and routes one after the other: they count as
/// one change when this little time is between them.
const CALM: Duration = Duration::from_millis(50);

/// A machine that is never calm is looked at so often.
const RESTLESS: Duration = Duration::from_secs(1);

/// Says when to look.
pub(crate) type Hints = Pin<Box<dyn Stream<Item = ()> + Send>>;

/// The best hints that this system has.
pub(crate) fn hints() -> Hints {
    #[cfg(target_os = "linux")]
    match told() {
        Ok(hints) => return hints,
        Err(error) => tracing::debug!(%error, "the kernel tells of no changes"),
    }
    looks()
}

/// Waits until it is time to look: a hint, and nothing more for a moment. `None` when there will
/// be no more.
pub(crate) async fn next(hints: &mut Hints) -> Option<()> {
    hints.next().await?;
    let calm = async {
        loop {
            match timeout(CALM, hints.next()).await {
                Ok(Some(())) => {}
                Ok(None) => return None,
                Err(_) => return Some(()),
            }
        }
    };
    timeout(RESTLESS, calm).await.unwrap_or(Some(()))
}

/// Looks now and then.
fn looks() -> Hints {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let looks = stream::unfold(ticks, async |mut ticks| {
        ticks.tick().await;
        Some(((), ticks))
    });
    Box::pin(looks)
}

/// What the kernel tells. When that ends, somebody looks.
#[cfg(target_os = "linux")]
fn told() -> io::Result<Hints> {
    // The runtime's type for sockets of datagrams: what it receives is not looked at by it.
    let socket = UnixDatagram::from_std(watch_addresses()?.into())?;
    let told = stream::unfold(socket, async |socket| {
        while !is_change(&socket).await? {}
        Some(((), socket))
    });
    Ok(Box::pin(
        told.chain(stream::once(async {}).flat_map(|()| looks())),
    ))
}

/// Waits until the kernel tells something, and says whether it is a change.
#[cfg(target_os = "linux")]
async fn is_change(socket: &UnixDatagram) -> Option<bool> {
    let mut told = vec![0; TOLD];
    socket.readable().await.ok()?;
    match socket.try_recv(&mut told) {
        Ok(length) => Some(tells_change(told.get(..length).unwrap_or_default())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(false),
        // There was more than fits: something has changed.
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Some(true),
        Err(error) => {
            tracing::debug!(%error, "the kernel tells of no changes any more");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn where_nobody_tells_somebody_looks_every_two_seconds() {
        let mut hints = looks();
        next(&mut hints).await;
        let began = tokio::time::Instant::now();
        next(&mut hints).await;
        next(&mut hints).await;
        let took = began.elapsed();
        assert!(took >= LOOK && took <= LOOK * 3, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn changes_that_come_together_are_one() {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let mut hints: Hints = Box::pin(stream::unfold(receiver, async |mut receiver| {
            let hint: Option<()> = receiver.recv().await;
            hint.map(|()| ((), receiver))
        }));
        for _ in 0..5 {
            sender.send(()).unwrap();
        }
        assert_eq!(next(&mut hints).await, Some(()));
        let more = timeout(Duration::from_secs(10), next(&mut hints)).await;
        assert!(more.is_err(), "there was one change");
        sender.send(()).unwrap();
        assert_eq!(next(&mut hints).await, Some(()));
        drop(sender);
        assert_eq!(next(&mut hints).await, None);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_kernel_can_be_listened_to_without_rights() {
        assert!(told().is_ok());
    }
}
