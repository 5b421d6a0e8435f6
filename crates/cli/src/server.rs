//! `postern server`

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use postern::DEFAULT_PORT;
use postern::server::{CertificateFiles, DEFAULT_STUN_PORT, Server, ServerConfig, ServerError};

use crate::failure::{Failure, chain};
use crate::interrupt::interrupted;
use crate::output::{Event, Output};

/// Options of `postern server`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An address to listen on, IPv4 or IPv6; repeat it for several
    #[arg(long, value_name = "IP", required = true)]
    listen: Vec<IpAddr>,
    /// The TCP port that clients connect to; 0 lets the system choose
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT)]
    port: u16,
    /// The UDP port of STUN; 0 lets the system choose
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_STUN_PORT)]
    stun_port: u16,
    /// The address at which clients reach the server, if it is not the one it listens on: behind a
    /// NAT, or when it listens on every address; repeat it for several
    #[arg(long, value_name = "IP")]
    public_ip: Vec<IpAddr>,
    /// The certificate chain in PEM form; without it the server makes its own, and its URL pins it
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The private key in PEM form
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Print one JSON object a line (docs/json.md)
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn config(&self) -> ServerConfig {
        let files = self.cert.clone().zip(self.key.clone());
        ServerConfig {
            listen: self.listen.clone(),
            port: self.port,
            stun_port: self.stun_port,
            public: self.public_ip.clone(),
            certificate: files.map(|(chain, key)| CertificateFiles { chain, key }),
        }
    }
}

/// Runs a server until it is interrupted.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let output = Output::new(arguments.json);
    let server = Server::bind(arguments.config());
    let server = server.map_err(|error| describe(&error))?;
    let (url, stun) = (server.url().to_string(), server.stun_uris().to_vec());
    let line = format!("Ready. Both sides pass this to postern:\n\n    --server '{url}'\n");
    output.say(
        &Event::Ready {
            url: &url,
            stun: &stun,
        },
        &line,
    );
    tokio::select! {
        () = server.run() => Err(Failure::failed("system", "the server stopped")),
        () = interrupted() => Ok(()),
    }
}

fn describe(error: &ServerError) -> Failure {
    let kind = match error {
        ServerError::Listen { .. } | ServerError::NoAddress => "listen",
        ServerError::Certificate(_) | ServerError::SelfSigned(_) => "certificate",
        ServerError::Entropy(_) => "system",
    };
    Failure::failed(kind, chain(error))
}
