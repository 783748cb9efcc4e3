//! `wasi:sockets`: linked, and refused unless granted.
//!
//! The interfaces are always there because the preview 1 adapter and several standard libraries import them whether or
//! not the program opens a socket; without the grant every use answers access-denied.

use std::net::{IpAddr, SocketAddr};

use wasmtime::component::Linker;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p2::bindings::sockets::{
    instance_network, ip_name_lookup, network, tcp, tcp_create_socket, udp, udp_create_socket,
};
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsCtx, WasiSocketsCtxView};

use crate::state::GuestState;

pub(super) fn add(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let options = network::LinkOptions::default();
    instance_network::add_to_linker::<_, WasiSockets>(linker, sockets)?;
    network::add_to_linker::<_, WasiSockets>(linker, &options, sockets)?;
    ip_name_lookup::add_to_linker::<_, WasiSockets>(linker, sockets)?;
    tcp_create_socket::add_to_linker::<_, WasiSockets>(linker, sockets)?;
    tcp::add_to_linker::<_, WasiSockets>(linker, sockets)?;
    udp_create_socket::add_to_linker::<_, WasiSockets>(linker, sockets)?;
    udp::add_to_linker::<_, WasiSockets>(linker, sockets)
}

fn sockets(state: &mut GuestState) -> WasiSocketsCtxView<'_> {
    let template = &state.hooks.shared.sockets;
    WasiSocketsCtxView {
        ctx: state.sockets.get_or_insert_with(|| template.clone()),
        table: &mut state.table,
    }
}

/// The socket policy of a replica.
pub(crate) fn policy(allow: bool) -> WasiSocketsCtx {
    let mut wasi = WasiCtxBuilder::new();
    wasi.allow_tcp(allow)
        .allow_udp(allow)
        .allow_ip_name_lookup(allow);
    if allow {
        wasi.socket_addr_check(|address, _use| Box::pin(std::future::ready(is_open(address))));
    }
    std::mem::take(wasi.build().sockets())
}

/// Even a guest with sockets must not reach the machine's own services or the cloud's metadata service.
fn is_open(address: SocketAddr) -> bool {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_itself_is_closed() {
        for closed in [
            "127.0.0.1:80",
            "169.254.169.254:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "[fe80::1]:80",
        ] {
            assert!(!is_open(closed.parse().unwrap()), "{closed}");
        }
        for open in ["10.0.0.1:80", "0.0.0.0:0", "[2001:db8::1]:443"] {
            assert!(is_open(open.parse().unwrap()), "{open}");
        }
    }
}
