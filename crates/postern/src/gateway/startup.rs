//! What a gateway begins with: its configuration for rules and machine, and what is left of
//! the last run.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use postern_proto::gateway::{self as machine, Config, Identity};

use super::config::{GatewayConfig, GatewayError};
use super::kernel::Kernel;
use super::links::Links;
use super::rules::Rules;
use super::store::{Saved, Store};
use crate::entropy;

pub(super) fn rules(config: &GatewayConfig) -> Rules {
    Rules {
        outside: config.wan.clone(),
        inside: config.lan.clone(),
        mark: config.mark,
    }
}

pub(super) fn open_store(config: &GatewayConfig) -> Result<Option<Store>, GatewayError> {
    let open = |directory: &std::path::PathBuf| {
        Store::open(directory).map_err(|source| GatewayError::State {
            path: directory.clone(),
            source,
        })
    };
    config.state.as_ref().map(open).transpose()
}

pub(super) fn load(store: Option<&Store>) -> Result<Option<Saved>, GatewayError> {
    let Some(store) = store else {
        return Ok(None);
    };
    store.load().map_err(|source| GatewayError::State {
        path: store.path().to_owned(),
        source,
    })
}

pub(super) fn identity(
    config: &GatewayConfig,
    saved: Option<&Saved>,
) -> Result<Identity, GatewayError> {
    let random = entropy::seed().map_err(GatewayError::Entropy)?;
    let (drawn, _) = random.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
    let kept = saved.and_then(|saved| u128::from_str_radix(&saved.uuid, 16).ok());
    let boot_id = saved.map_or(0, |saved| saved.boot_id);
    Ok(Identity {
        uuid: kept.unwrap_or_else(|| u128::from_be_bytes(*drawn)),
        name: config.name.clone(),
        boot_id: boot_id.wrapping_add(1) & 0x7fff_ffff,
    })
}

/// A machine with the leases of the last run: those of the file, and those that only the
/// kernel has, because the last run ended before it wrote them down.
pub(super) fn machine(
    now: Instant,
    config: &GatewayConfig,
    links: &Links,
    saved: Option<&Saved>,
    kernel: &mut Kernel,
) -> Result<machine::Gateway, GatewayError> {
    let epoch = saved.map_or(Duration::ZERO, Saved::epoch);
    let config = machine_config(config, links, epoch);
    let seed = entropy::seed().map_err(GatewayError::Entropy)?;
    let mut machine = machine::Gateway::new(now, seed, config);
    for lease in saved.map(|saved| saved.leases(now)).unwrap_or_default() {
        machine.restore(now, lease);
    }
    let kept = match kernel.leases(now) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(GatewayError::Kernel(error.into()));
        }
        kept => kept.unwrap_or_default(),
    };
    for lease in kept {
        machine.restore(now, lease);
    }
    Ok(machine)
}

pub(super) fn machine_config(config: &GatewayConfig, links: &Links, epoch: Duration) -> Config {
    Config {
        inside: links.networks(),
        own: links.own.clone(),
        external: links.external,
        rules: config.rules.clone(),
        quotas: config.quotas,
        max_lease: config.max_lease,
        third_party: config.third_party,
        nat_pmp: config.nat_pmp,
        pcp: config.pcp,
        upnp: config.upnp,
        epoch,
    }
}
