//! Listening: one port, TLS outside loopback, an orderly end.

use crate::{identity::Authenticator, service::Door};
use arrow_flight::flight_service_server::FlightServiceServer;
use custody_engine::Engine;
use custody_model::Problem;
use std::{future::Future, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where to listen. Port 0: any free one.
    pub bind: SocketAddr,
    /// The audience that tokens must name.
    pub audience: String,
    /// Certificate and key, PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// How long running streams may go on after the end was asked for.
    pub drain: Duration,
}

/// Serves until `stop` resolves, then ends in order. `ready` is told the address once the port is open.
pub async fn serve(
    engine: Arc<Engine>,
    options: ServeOptions,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Problem> {
    if options.tls.is_none() && !options.bind.ip().is_loopback() {
        return Err(Problem::new(1508, format!("refusing to serve {} without TLS", options.bind.ip()))
            .help("--tls-cert and --tls-key, or an address on loopback"));
    }
    let broken = |e: &dyn std::fmt::Display| Problem::new(7502, format!("cannot serve {}: {e}", options.bind));
    let listener = TcpListener::bind(options.bind).await.map_err(|e| broken(&e))?;
    let address = listener.local_addr().map_err(|e| broken(&e))?;
    let authenticator = Authenticator::new(engine, &options.audience);
    let door = Door::new(authenticator.clone())?;
    let service =
        FlightServiceServer::new(door).max_decoding_message_size(4 << 20).max_encoding_message_size(usize::MAX);
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .tcp_nodelay(true);
    if let Some((certificate, key)) = &options.tls {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|e| Problem::new(1509, format!("`{}` cannot be read: {e}", path.display())))
        };
        let identity = Identity::from_pem(read(certificate)?, read(key)?);
        server = server.tls_config(ServerTlsConfig::new().identity(identity)).map_err(|e| broken(&e))?;
    }
    ready(address);
    let (asked, mut told) = tokio::sync::watch::channel(false);
    let running =
        server.add_service(service).serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move {
            stop.await;
            let _ = asked.send(true);
        });
    let late = async {
        let _ = told.wait_for(|asked| *asked).await;
        tokio::time::sleep(options.drain).await;
    };
    let ended = tokio::select! {
        ended = running => ended.map_err(|e| broken(&e)),
        // Streams still open are cut here; each leaves its outcome behind.
        () = late => Ok(()),
    };
    authenticator.settle().await;
    ended
}
