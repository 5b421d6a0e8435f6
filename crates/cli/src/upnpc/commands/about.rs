//! What the connection is, and is like.

use std::time::{SystemTime, UNIX_EPOCH};

use postern::portmap::Arguments;

use super::super::router::Service;
use super::super::say;
use super::Command;
use super::answers::{number, text};

impl Command<'_> {
    pub(super) async fn status(&self) -> u8 {
        self.infos().await;
        self.traffic().await;
        0
    }

    /// What the connection is, and is like.
    pub(super) async fn infos(&self) {
        let none = Arguments::default;
        let ask = |action| self.router.ask(Service::Connection, action, none());
        match ask("GetConnectionTypeInfo").await {
            Ok(answer) => say(&format!(
                "Connection Type : {}",
                text(&answer, "NewConnectionType")
            )),
            Err(_) => say("GetConnectionTypeInfo failed."),
        }
        let mut uptime = 0;
        match ask("GetStatusInfo").await {
            Ok(answer) => {
                uptime = number(&answer, "NewUptime");
                let status = text(&answer, "NewConnectionStatus");
                let error = text(&answer, "NewLastConnectionError");
                say(&format!(
                    "Status : {status}, uptime={uptime}s, LastConnectionError : {error}"
                ));
            }
            Err(_) => say("GetStatusInfo failed."),
        }
        if let Some(time) = started(uptime) {
            say(&format!("  Time started : {time}"));
        }
        self.rates().await;
        match ask("GetExternalIPAddress").await {
            Ok(answer) if text(&answer, "NewExternalIPAddress").is_empty() => {
                say("GetExternalIPAddress failed. (empty string)");
            }
            Ok(answer) => say(&format!(
                "ExternalIPAddress = {}",
                text(&answer, "NewExternalIPAddress")
            )),
            Err(code) => say(&format!("GetExternalIPAddress failed. (errorcode={code})")),
        }
    }

    async fn rates(&self) {
        let action = "GetCommonLinkProperties";
        let ask = self
            .router
            .ask(Service::Interface, action, Arguments::default());
        let Ok(answer) = ask.await else {
            return say("GetLinkLayerMaxBitRates failed.");
        };
        let down = rate(number(&answer, "NewLayer1DownstreamMaxBitRate"));
        let up = rate(number(&answer, "NewLayer1UpstreamMaxBitRate"));
        say(&format!("MaxBitRateDown : {down}   MaxBitRateUp {up}"));
    }

    pub(super) async fn traffic(&self) {
        let mut counts = [0; 4];
        let names = [
            "BytesSent",
            "BytesReceived",
            "PacketsSent",
            "PacketsReceived",
        ];
        for (count, name) in counts.iter_mut().zip(names) {
            let action = format!("GetTotal{name}");
            let ask = self
                .router
                .ask(Service::Interface, &action, Arguments::default());
            *count = match ask.await {
                Ok(answer) => number(&answer, &format!("NewTotal{name}")),
                Err(code) if code < 0 => code.cast_unsigned(),
                Err(_) => 0,
            };
        }
        let [sent, received, packets_sent, packets_received] = counts;
        say(&format!("Bytes:   Sent: {sent:8}\tRecv: {received:8}"));
        say(&format!(
            "Packets: Sent: {packets_sent:8}\tRecv: {packets_received:8}"
        ));
    }
}

/// Bits a second, and the same for people.
fn rate(bits: u32) -> String {
    match bits {
        1_000_000.. => {
            let (whole, tenth) = (bits / 1_000_000, bits / 100_000 % 10);
            format!("{bits} bps ({whole}.{tenth} Mbps)")
        }
        1000.. => format!("{bits} bps ({} Kbps)", bits / 1000),
        _ => format!("{bits} bps"),
    }
}

/// When that was, as C writes it, unless it is zero.
fn started(uptime: u32) -> Option<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let then = i64::try_from(now.as_secs()).ok()? - i64::from(uptime);
    let time = postern::local_time(then).filter(|_| uptime > 0)?;
    let weekday = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"].get(time.weekday)?;
    let month = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]
    .get(time.month)?;
    Some(format!(
        "{weekday} {month} {:2} {:02}:{:02}:{:02} {}",
        time.day, time.hour, time.minute, time.second, time.year
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_told_for_people_too() {
        assert_eq!(rate(1_410_065_408), "1410065408 bps (1410.0 Mbps)");
        assert_eq!(rate(56_000), "56000 bps (56 Kbps)");
        assert_eq!(rate(0), "0 bps");
    }
}
