//! Moves bytes from one connection to another, as they come, and shows them to whoever reads along. Holds no more of them
//! than one read.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::copier::Copier;
use super::framing::{Broken, Framing};
use crate::limits;

/// Room for one read of an upgraded connection, which may be one of many that are quiet.
const TUNNEL_BYTES: usize = 16 * 1024;

/// Why a body did not get across.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The sender is gone.
    #[error("reading failed: {0}")]
    Read(io::Error),
    /// The sender ended in the middle.
    #[error("it ended in the middle of a body")]
    Short,
    /// The receiver is gone.
    #[error("writing failed: {0}")]
    Write(io::Error),
    /// It cannot be told where the body ends.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// Reads once into `buffer`, with `room` for that.
pub async fn fill(from: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut, room: usize) -> io::Result<usize> {
    buffer.reserve(room);
    from.read_buf(buffer).await
}

/// Moves a body's bytes from the front of `buffer` to the end of `out`, for what is there.
pub fn take(
    buffer: &mut BytesMut,
    framing: &mut Framing,
    copier: Option<&mut Copier>,
    out: &mut Vec<u8>,
) -> Result<(), Broken> {
    if framing.is_done() || buffer.is_empty() {
        return Ok(());
    }
    let taken = scan(buffer, framing, copier)?;
    out.extend_from_slice(&buffer[..taken]);
    buffer.advance(taken);
    Ok(())
}

fn scan(buffer: &BytesMut, framing: &mut Framing, copier: Option<&mut Copier>) -> Result<usize, Broken> {
    match copier {
        None => framing.scan(buffer, |_| {}),
        Some(copier) => framing.scan(buffer, |range| copier.push(&buffer[range])),
    }
}

/// Relays the rest of a body to its end.
pub async fn body(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    to: &mut (impl AsyncWrite + Unpin),
    framing: &mut Framing,
    mut copier: Option<&mut Copier>,
) -> Result<(), Stopped> {
    while !framing.is_done() {
        if buffer.is_empty() {
            let filled = match fill(from, buffer, limits::RELAY_READ_BYTES).await {
                Ok(filled) => filled,
                // Some end TLS without saying so.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                Err(error) => return Err(Stopped::Read(error)),
            };
            if filled == 0 {
                return if framing.ends_with_connection() { Ok(()) } else { Err(Stopped::Short) };
            }
        }
        let taken = scan(buffer, framing, copier.as_deref_mut())?;
        to.write_all(&buffer[..taken]).await.map_err(Stopped::Write)?;
        to.flush().await.map_err(Stopped::Write)?;
        buffer.advance(taken);
        if let Some(copier) = &mut copier {
            copier.room().await;
        }
    }
    Ok(())
}

/// Relays one direction of an upgraded connection until it ends, and then ends the other side's.
pub async fn direction(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    to: &mut (impl AsyncWrite + Unpin),
    mut copier: Option<Copier>,
) -> io::Result<()> {
    loop {
        if buffer.is_empty() {
            let read = match fill(from, buffer, TUNNEL_BYTES).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                read => read?,
            };
            if read == 0 {
                break;
            }
        }
        if let Some(copier) = &mut copier {
            copier.push(buffer);
        }
        to.write_all(buffer).await?;
        to.flush().await?;
        buffer.clear();
        if let Some(copier) = &mut copier {
            copier.room().await;
        }
    }
    if let Some(copier) = copier {
        copier.finish();
    }
    to.shutdown().await
}
