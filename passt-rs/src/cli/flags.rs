//! Every flag and its help.

use clap::{ArgAction, Args, Parser};

/// Connects a virtual machine's network card to the sockets of this network namespace.
///
/// Takes passt's options. Without any, waits for a guest on a new socket /tmp/passt_N.socket, gives it this
/// namespace's own addresses, and carries its connections out; nothing is forwarded in until -t or -u says so.
///
/// A long option may be shortened as long as it stays unambiguous.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "passt-rs",
    version,
    disable_version_flag = true,
    args_override_self = true,
    infer_long_args = true
)]
pub struct Cli {
    /// Stay in the foreground
    #[arg(short, long, help_heading = PROCESS)]
    pub foreground: bool,
    /// Log each flow's start and end
    #[arg(short, long, help_heading = PROCESS)]
    pub debug: bool,
    /// Log each state change as well
    #[arg(long, help_heading = PROCESS)]
    pub trace: bool,
    /// Log warnings and errors only
    #[arg(short, long, help_heading = PROCESS)]
    pub quiet: bool,
    /// Log to this file instead of standard error
    #[arg(short, long, value_name = "FILE", help_heading = PROCESS)]
    pub log_file: Vec<String>,
    /// Size at which the log file drops its older half [default: 1048576]
    #[arg(long, value_name = "BYTES", help_heading = PROCESS)]
    pub log_size: Vec<String>,
    /// Write the process id to this file
    #[arg(short = 'P', long, value_name = "FILE", help_heading = PROCESS)]
    pub pid: Vec<String>,
    /// Quit when the guest disconnects
    #[arg(short = '1', long, help_heading = PROCESS)]
    pub one_off: bool,
    /// Run as this user when started as root [default: 65534:65534]
    #[arg(long, value_name = "UID[:GID]", help_heading = PROCESS)]
    pub runas: Vec<String>,
    /// Log to standard error [deprecated: this is so without --log-file]
    #[arg(short = 'e', long, hide = true)]
    pub stderr: bool,
    /// Passed to let passt confine itself less where it cannot change its root; this never changes root
    #[arg(long, hide = true)]
    pub chroot_fallback: bool,
    /// Answer questions about this process on this socket
    #[arg(long, value_name = "PATH", help_heading = PROCESS)]
    pub control: Vec<String>,
    /// The most connections and other flows at a time [default: 131072, or what descriptors allow]
    #[arg(long, value_name = "N", help_heading = PROCESS)]
    pub flows_max: Vec<String>,
    /// About how much kernel memory the sockets of all flows may hold [default: what the kernel gives each]
    #[arg(long, value_name = "BYTES", help_heading = PROCESS)]
    pub socket_memory: Vec<String>,
    /// Print the version and exit
    #[arg(long, action = ArgAction::Version, help_heading = PROCESS)]
    version: Option<bool>,

    /// Wait for the guest on this Unix socket [default: the first free /tmp/passt_N.socket]
    #[arg(short, long, value_name = "PATH", help_heading = TRANSPORT)]
    pub socket: Vec<String>,
    /// passt's other spelling of --socket; no alias, so that mistakes name what was typed
    #[arg(long, hide = true)]
    pub socket_path: Vec<String>,
    /// Speak vhost-user on the socket instead of sending frames: the guest's memory is shared
    #[arg(long, help_heading = TRANSPORT)]
    pub vhost_user: bool,
    /// Print what this vhost-user back-end can do as JSON and exit
    #[arg(long, help_heading = TRANSPORT)]
    pub print_capabilities: bool,
    /// Write TCP connections down in this file, for a passt-rs started after a crash, or `none` [default: PATH.flows beside
    /// the socket]
    #[arg(long, value_name = "PATH|none", help_heading = TRANSPORT)]
    pub flows_path: Vec<String>,
    /// The guest's hardware address [default: learned from its first frame]
    #[arg(long, value_name = "MAC", help_heading = TRANSPORT)]
    pub guest_mac: Vec<String>,
    /// Where passt-repair would connect for a migration, or `none`; nothing listens there yet
    #[arg(long, value_name = "PATH|none", help_heading = TRANSPORT)]
    pub repair_path: Vec<String>,
    /// Deprecated by passt, without effect here
    #[arg(long, hide = true)]
    pub migrate_exit: bool,
    /// Deprecated by passt, without effect here
    #[arg(long, hide = true)]
    pub migrate_no_linger: bool,
    /// Use this connected descriptor instead of a socket of our own
    #[arg(short = 'F', long, value_name = "FD", help_heading = TRANSPORT)]
    pub fd: Vec<String>,
    /// Serve a tap in this network namespace instead of a socket
    #[arg(long, value_name = "PATH|PID", help_heading = TRANSPORT)]
    pub netns: Vec<String>,
    /// Join no user namespace with --netns; this is always so
    #[arg(long, help_heading = TRANSPORT)]
    pub netns_only: bool,
    /// Do not quit when the path of --netns goes; this is always so
    #[arg(long, help_heading = TRANSPORT)]
    pub no_netns_quit: bool,
    /// Name of the tap [default: the outbound interface's name, or tap0]
    #[arg(short = 'I', long, value_name = "NAME", help_heading = TRANSPORT)]
    pub ns_ifname: Vec<String>,
    /// Hardware address of the tap [default: the kernel's choice]
    #[arg(long, value_name = "MAC", help_heading = TRANSPORT)]
    pub ns_mac_addr: Vec<String>,
    /// Give the tap its addresses, routes and MTU, and bring it up
    #[arg(long, help_heading = TRANSPORT)]
    pub config_net: bool,
    /// Record every frame in this file
    #[arg(short, long, value_name = "FILE", help_heading = TRANSPORT)]
    pub pcap: Vec<String>,

    /// MTU to announce; 0 announces none [default: 65520]
    #[arg(short, long, value_name = "BYTES", help_heading = ADDRESSES)]
    pub mtu: Vec<String>,
    /// The guest's address, one per family [default: those of the outbound interface]
    #[arg(short, long, value_name = "ADDR[/PREFIX]", help_heading = ADDRESSES)]
    pub address: Vec<String>,
    /// IPv4 netmask, as bits or dotted [default: that of the outbound interface]
    #[arg(short, long, value_name = "MASK", help_heading = ADDRESSES)]
    pub netmask: Vec<String>,
    /// Our hardware address on the guest's link [default: 9a:55:9a:55:9a:55]
    #[arg(short = 'M', long, value_name = "MAC", help_heading = ADDRESSES)]
    pub mac_addr: Vec<String>,
    /// Default gateway, one per family [default: that of the outbound interface]
    #[arg(short, long, value_name = "ADDR", help_heading = ADDRESSES)]
    pub gateway: Vec<String>,
    /// Interface to take addresses and routes from [default: the one with the default route]
    #[arg(short, long, value_name = "NAME", help_heading = ADDRESSES)]
    pub interface: Vec<String>,
    /// Source address of outgoing connections, one per family
    #[arg(short, long, value_name = "ADDR", help_heading = ADDRESSES)]
    pub outbound: Vec<String>,
    /// Bind outgoing IPv4 connections to this interface
    #[arg(long, value_name = "NAME", help_heading = ADDRESSES)]
    pub outbound_if4: Vec<String>,
    /// Bind outgoing IPv6 connections to this interface
    #[arg(long, value_name = "NAME", help_heading = ADDRESSES)]
    pub outbound_if6: Vec<String>,
    /// IPv4 only
    #[arg(short = '4', long, help_heading = ADDRESSES)]
    pub ipv4_only: bool,
    /// IPv6 only
    #[arg(short = '6', long, help_heading = ADDRESSES)]
    pub ipv6_only: bool,

    /// Resolver to announce, repeatable; `none` announces none [default: /etc/resolv.conf]
    #[arg(short = 'D', long, value_name = "ADDR", help_heading = SERVICES)]
    pub dns: Vec<String>,
    /// Address whose DNS ports reach --dns-host, one per family
    #[arg(long, value_name = "ADDR", help_heading = SERVICES)]
    pub dns_forward: Vec<String>,
    /// Resolver behind --dns-forward, one per family [default: the first in /etc/resolv.conf]
    #[arg(long, value_name = "ADDR", help_heading = SERVICES)]
    pub dns_host: Vec<String>,
    /// Search domains, repeatable; `none` announces none [default: /etc/resolv.conf]
    #[arg(short = 'S', long, value_name = "DOMAIN", help_heading = SERVICES)]
    pub search: Vec<String>,
    /// Host name to hand out
    #[arg(short = 'H', long, value_name = "NAME", help_heading = SERVICES)]
    pub hostname: Vec<String>,
    /// Fully qualified name to hand out
    #[arg(long, value_name = "NAME", help_heading = SERVICES)]
    pub fqdn: Vec<String>,
    /// Announce resolvers [default]
    #[arg(long, help_heading = SERVICES, overrides_with = "no_dhcp_dns")]
    pub dhcp_dns: bool,
    /// Announce no resolvers
    #[arg(long, help_heading = SERVICES, overrides_with = "dhcp_dns")]
    pub no_dhcp_dns: bool,
    /// Announce search domains [default]
    #[arg(long, help_heading = SERVICES, overrides_with = "no_dhcp_search")]
    pub dhcp_search: bool,
    /// Announce no search domains
    #[arg(long, help_heading = SERVICES, overrides_with = "dhcp_search")]
    pub no_dhcp_search: bool,
    /// File that the guest boots from, for its DHCP client
    #[arg(long, value_name = "NAME", help_heading = SERVICES)]
    pub dhcp_bootfile: Vec<String>,
    /// Server that has the file, a name or an IPv4 address
    #[arg(long, value_name = "NAME", help_heading = SERVICES)]
    pub dhcp_tftp: Vec<String>,
    /// NTP server to announce by DHCP, repeatable
    #[arg(long, value_name = "ADDR", help_heading = SERVICES)]
    pub dhcp_ntp: Vec<String>,
    /// Option of the site to send by DHCP, code 224 to 254, repeatable
    #[arg(long, value_name = "CODE=TEXT", help_heading = SERVICES)]
    pub dhcp_option: Vec<String>,
    /// No DHCP server
    #[arg(long, help_heading = SERVICES)]
    pub no_dhcp: bool,
    /// No DHCPv6 server
    #[arg(long, help_heading = SERVICES)]
    pub no_dhcpv6: bool,
    /// No answers to neighbour discovery
    #[arg(long, help_heading = SERVICES)]
    pub no_ndp: bool,
    /// No router advertisements
    #[arg(long, help_heading = SERVICES)]
    pub no_ra: bool,

    /// Carry no TCP
    #[arg(long, help_heading = PROTOCOLS)]
    pub no_tcp: bool,
    /// Carry no UDP
    #[arg(long, help_heading = PROTOCOLS)]
    pub no_udp: bool,
    /// Carry no ICMP and ICMPv6; implies --no-ndp
    #[arg(long, help_heading = PROTOCOLS)]
    pub no_icmp: bool,
    /// Bind to addresses this namespace does not have
    #[arg(long, help_heading = PROTOCOLS)]
    pub freebind: bool,
    /// Keep the gateway's address from reaching this namespace's loopback
    #[arg(long, help_heading = PROTOCOLS)]
    pub no_map_gw: bool,
    /// Address that reaches this namespace's loopback, one per family, or `none` [default: the gateway]
    #[arg(long, value_name = "ADDR|none", help_heading = PROTOCOLS)]
    pub map_host_loopback: Vec<String>,
    /// Address that reaches this namespace's own address, one per family, or `none` [default: none]
    #[arg(long, value_name = "ADDR|none", help_heading = PROTOCOLS)]
    pub map_guest_addr: Vec<String>,

    /// TCP ports to forward in, repeatable [default: none]
    #[arg(short, long, value_name = "SPEC", help_heading = PORTS, long_help = PORTS_HELP)]
    pub tcp_ports: Vec<String>,
    /// UDP ports to forward in, repeatable, written like TCP ports [default: none]
    #[arg(short, long, value_name = "SPEC", help_heading = PORTS)]
    pub udp_ports: Vec<String>,

    #[command(flatten)]
    pub unsupported: Unsupported,
}

/// Flags of passt and pasta that are refused by name, so that nobody takes silence for consent.
#[derive(Args, Clone, Debug, Default)]
pub struct Unsupported {
    #[arg(long, hide = true)]
    stats: Option<String>,
    #[arg(short = 'c', long, hide = true)]
    conf_path: Option<String>,
    #[arg(short = 'T', long, hide = true)]
    tcp_ns: Option<String>,
    #[arg(short = 'U', long, hide = true)]
    udp_ns: Option<String>,
    #[arg(long, hide = true)]
    host_lo_to_ns_lo: bool,
    #[arg(long, hide = true)]
    userns: Option<String>,
    #[arg(long, hide = true)]
    no_copy_routes: bool,
    #[arg(long, hide = true)]
    no_copy_addrs: bool,
    #[arg(long, hide = true)]
    no_splice: bool,
    #[arg(long, hide = true)]
    splice_only: bool,
}

impl Unsupported {
    /// Those that were given, as they are spelled.
    pub fn given(&self) -> Vec<&'static str> {
        let all = [
            ("--stats", self.stats.is_some()),
            ("--conf-path", self.conf_path.is_some()),
            ("--tcp-ns", self.tcp_ns.is_some()),
            ("--udp-ns", self.udp_ns.is_some()),
            ("--host-lo-to-ns-lo", self.host_lo_to_ns_lo),
            ("--userns", self.userns.is_some()),
            ("--no-copy-routes", self.no_copy_routes),
            ("--no-copy-addrs", self.no_copy_addrs),
            ("--no-splice", self.no_splice),
            ("--splice-only", self.splice_only),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect()
    }
}

const PROCESS: &str = "Process";
const TRANSPORT: &str = "Guest's end";
const ADDRESSES: &str = "Addresses";
const SERVICES: &str = "Services for the guest";
const PROTOCOLS: &str = "Protocols and mappings";
const PORTS: &str = "Ports";

const PORTS_HELP: &str = "\
TCP ports to forward in, repeatable [default: none]

  none                    forward nothing
  all                     every port outside the kernel's range for clients
  22,8000-8010            these ports
  2222:22,8000-8010:80-90 these, to other ports of the guest
  1-1023,~25              a range without some; exclusions alone start from `all`
  192.0.2.1/22            listen on one address
  192.0.2.1%eth0/22       and on one interface";
