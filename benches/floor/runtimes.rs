//! The same loop on monoio and on tokio-uring, each with its own driver as it sets it up by itself.

use std::io;
use std::net::TcpListener;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};

use crate::http::Site;

/// A head that is longer has no answer.
const BUFFER_LEN: usize = 2048;

/// Serves on monoio.
///
/// # Errors
/// There is no ring to be had, or it does not accept any more.
pub fn monoio(listener: TcpListener, site: &'static Site) -> io::Result<()> {
    monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build()?.block_on(async {
        let listener = monoio::net::TcpListener::from_std(listener)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            monoio::spawn(async move {
                let mut buffer = vec![0; BUFFER_LEN];
                loop {
                    let received;
                    (received, buffer) = stream.read(buffer).await;
                    let Some((bytes, last)) = reply(site, received, &buffer) else { return };
                    let (sent, _) = stream.write_all(bytes).await;
                    if last || sent.is_err() {
                        return;
                    }
                }
            });
        }
    })
}

/// Serves on tokio-uring.
///
/// # Errors
/// The ring does not accept any more.
pub fn tokio_uring(listener: TcpListener, site: &'static Site) -> io::Result<()> {
    tokio_uring::start(async {
        let listener = tokio_uring::net::TcpListener::from_std(listener);
        loop {
            let (stream, _) = listener.accept().await?;
            tokio_uring::spawn(async move {
                let mut buffer = vec![0; BUFFER_LEN];
                loop {
                    let received;
                    (received, buffer) = stream.read(buffer).await;
                    let Some((bytes, last)) = reply(site, received, &buffer) else { return };
                    let (sent, _) = stream.write_all(bytes).await;
                    if last || sent.is_err() {
                        return;
                    }
                }
            });
        }
    })
}

/// The bytes that answer what was received, and whether they are the last ones.
fn reply(site: &'static Site, received: io::Result<usize>, buffer: &[u8]) -> Option<(&'static [u8], bool)> {
    let request = site.request(&buffer[..received.ok()?])?;
    Some((request.resource.prepared.as_deref()?, request.last))
}
