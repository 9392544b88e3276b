//! The sidecar as KubeVirt runs it and calls it: its container, virt-launcher's calls, libvirt, a VM.
#![expect(clippy::tests_outside_test_module, reason = "a file of integration tests is a test module")]

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use vm_tests::container::{Hooks, Options, Sidecar};
use vm_tests::hoard;
use vm_tests::lab::{Lab, MemoryGroup, POD_V4, SERVER_V4, Variant, wait_for};
use vm_tests::launcher::{CloudInit, Element, Guest, Launcher, Network, Version, round_trip};
use vm_tests::libvirt::{Domain, Libvirt};
use vm_tests::services::{self, HttpServer, PAGE};
use vm_tests::vm::Image;

const BINDING: &str = "sluice";
const CONTAINER: &str = "hook-sidecar-0";

const HTTP_PORT: u16 = 80;
/// The TCP port of the pod that leads to the guest.
const GUEST_PORT: u16 = 8080;

/// For what answers at once, in an emulated guest on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// For a sidecar's start, on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// Within which a sidecar ends, and a VM is reachable again.
const PROMPTLY: Duration = Duration::from_secs(2);

/// Beside its translators, which are processes of their own.
const RESIDENT_BYTES_MAX: u64 = 10 << 20;

/// What KubeVirt gives the sidecar of a VM with dedicated CPUs (`64M`).
const MEMORY_LIMIT: u64 = 64_000_000;

#[test]
fn vm_lives_and_dies_within_its_sidecars_memory_limit() {
    in_a_lab(|lab| {
        let _http = HttpServer::start(lab.world(), HTTP_PORT)?;
        let group = MemoryGroup::new(lab, MEMORY_LIMIT)?;
        let hooks = Hooks::new(lab)?;
        let options = Options { memory: Some(&group), ..Options::new(CONTAINER, BINDING) };
        let mut sidecar = Sidecar::start(lab, &hooks, &options)?;
        let launcher = step("found", || Launcher::find(hooks.folder(), 1, READY_LIMIT))?;
        let libvirt = Libvirt::start_as_compute(lab, &hooks, &Image::build()?)?;
        let spec = Guest {
            memory_mib: hoard::MEMORY_MIB,
            dedicated_cpus: true,
            kernel_arguments: hoard::KERNEL_ARGUMENTS,
            networks: vec![Network { tcp_ports: vec![GUEST_PORT], ..Network::of_the_pod(BINDING) }],
            ..Guest::new(BINDING)
        };
        let given = CloudInit { no_cloud_source: b"{\"a\":1}".to_vec(), data: b"{}".to_vec() };
        let passed = launcher.pre_cloud_init_iso(given.clone(), &spec.vmi())?;
        ensure!(passed == given, "cloud-init's data changed: {passed:?}");

        let mut guest = step("boot", || launcher.start(&libvirt, &spec)).with_context(|| sidecar.log())?;
        step("the pod's address", || lease(&mut guest))?;
        step("out", || page_from_outside(&mut guest))?;
        step("in", || guest_page(lab, &mut guest))?;
        let resident = sidecar.resident_bytes()?;
        ensure!(resident < RESIDENT_BYTES_MAX, "the sidecar has {resident} bytes of memory");
        let status = sidecar.status()?;
        let sent = status.pointer("/interfaces/0/counters/from_guest_bytes").and_then(Value::as_u64);
        ensure!(sent.is_some_and(|bytes| bytes > 0), "nothing was counted: {status}");
        step("translator killed in a download", || killing(lab, &sidecar, &mut guest))
            .with_context(|| sidecar.log())?;
        step("more received than it has memory", || receive(&mut guest, &group))
            .with_context(|| sidecar.log())?;
        step("destroyed", || guest.destroy())?;
        step("shut down", || {
            launcher.shutdown()?;
            expect_end(&mut sidecar)
        })?;
        libvirt.virsh(["undefine", &spec.domain_name()])?;
        libvirt.expect_nothing_left(None)
    });
}

#[test]
fn container_of_a_sidecar_has_no_rights_and_nothing_to_write_to_but_its_sockets_folder() {
    in_a_lab(|lab| {
        let (sidecar, launcher, _hooks) = served(lab)?;
        launcher.on_define_domain(&domain(), &Guest::new(BINDING).vmi())?;
        for pid in sidecar.translators().into_iter().chain([sidecar.pid()]) {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                let none = format!("{set}:\t0000000000000000");
                ensure!(status.lines().any(|line| line == none), "{set} of {pid}: {status}");
            }
            ensure!(status.lines().any(|line| line == "NoNewPrivs:\t1"), "{status}");
            ensure!(status.lines().any(|line| line == "Uid:\t107\t107\t107\t107"), "{status}");
        }
        let place = |path: &str| PathBuf::from(format!("/proc/{}/root", sidecar.pid())).join(path);
        for path in ["x", "etc/x", "var/run/x", "usr/x"] {
            ensure!(std::fs::write(place(path), "").is_err(), "/{path} can be written");
        }
        std::fs::write(place("var/run/kubevirt-hooks/net/x"), "").context("the folder of sockets")?;
        Ok(())
    });
}

#[test]
fn two_sidecars_add_an_interface_each_and_keep_their_sockets_apart() {
    in_a_lab(|lab| {
        lab.pod().ip("link add net1 type veth peer name far1\nlink set net1 up\nlink set far1 up\n")?;
        lab.pod().ip("address add 192.168.77.5/24 dev net1\n")?;
        let hooks = Hooks::new(lab)?;
        let mut first = Sidecar::start(lab, &hooks, &Options::new(CONTAINER, BINDING))?;
        let mut second = Sidecar::start(lab, &hooks, &Options::new("hook-sidecar-1", "other"))?;
        let launcher = Launcher::find(hooks.folder(), 2, READY_LIMIT)?;
        for sidecar in launcher.sidecars() {
            ensure!(sidecar.version == Version::V1alpha3, "{sidecar:?}");
        }
        let libvirt = Libvirt::start_as_compute(lab, &hooks, &Image::build()?)?;
        let mut spec = Guest::new(BINDING);
        spec.networks.push(Network {
            name: "blue".to_owned(),
            pod_interface: "net1".to_owned(),
            multus: Some("blue".to_owned()),
            ..Network::of_the_pod("other")
        });
        let last = launcher.define(&libvirt, &spec)?;
        let domain = Element::parse(&last)?;
        let paths = vhost_user_paths(&domain);
        let expected = ["hook-sidecar-0/net/default.sock", "hook-sidecar-1/net/blue.sock"]
            .map(|path| format!("/var/run/kubevirt-hooks/{path}"));
        let mut sorted = paths.clone();
        sorted.sort();
        ensure!(sorted == expected, "{paths:?}");
        for path in &paths {
            UnixStream::connect(outside(&hooks, path))
                .with_context(|| format!("nobody listens at {path}"))?;
        }
        ensure!(first.translators().len() == 1 && second.translators().len() == 1, "a translator each");
        // A retry of the whole, and a call whose answer KubeVirt does not use.
        libvirt.virsh(["undefine", &spec.domain_name()])?;
        let again = launcher.define(&libvirt, &spec)?;
        ensure!(vhost_user_paths(&Element::parse(&again)?) == paths, "a retry differs");
        ensure!(first.translators().len() == 1 && second.translators().len() == 1, "still one each");
        launcher.shutdown()?;
        expect_end(&mut first)?;
        expect_end(&mut second)
    });
}

#[test]
fn plugin_call_gives_back_what_go_lost() {
    in_a_lab(|lab| {
        let (sidecar, launcher, _hooks) = served(lab)?;
        let spec = Guest::new(BINDING);
        let defined = launcher.on_define_domain(&domain(), &spec.vmi())?;
        let lossy = round_trip(&defined)?;
        ensure!(!lossy.contains("/var/run/kubevirt-hooks"), "Go kept the socket: {lossy}");
        let restored = launcher.mutate_domain(&sidecar.plugin_socket(), &lossy, &spec.vmi(), "Boot")?;
        let paths = vhost_user_paths(&Element::parse(&restored)?);
        ensure!(paths == [format!("/var/run/kubevirt-hooks/{CONTAINER}/net/default.sock")], "{restored}");
        Ok(())
    });
}

#[test]
fn bad_domain_and_bad_vmi_are_refused_and_the_next_is_served() {
    in_a_lab(|lab| {
        let (sidecar, launcher, _hooks) = served(lab)?;
        let spec = Guest::new(BINDING);
        for (domain, vmi) in [
            ("<domain><devices></domain>", spec.vmi()),
            ("", spec.vmi()),
            (domain().as_str(), "{".to_owned()),
            (
                domain().as_str(),
                spec.vmi()
                    .replace("\"networks\":[{\"name\":\"default\"", "\"networks\":[{\"name\":\"elsewhere\""),
            ),
        ] {
            let answer = launcher.on_define_domain(domain, &vmi);
            ensure!(answer.is_err(), "{domain:?} of {vmi} became {answer:?}");
        }
        ensure!(sidecar.translators().is_empty(), "a translator for nothing");
        launcher.on_define_domain(&domain(), &spec.vmi())?;
        ensure!(sidecar.translators().len() == 1, "no translator");
        Ok(())
    });
}

#[test]
fn every_signal_that_ends_a_container_ends_all_of_it_promptly() {
    in_a_lab(|lab| {
        for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
            let (mut sidecar, launcher, _hooks) = served(lab)?;
            launcher.on_define_domain(&domain(), &Guest::new(BINDING).vmi())?;
            ensure!(sidecar.translators().len() == 1, "no translator");
            sidecar.signal(signal)?;
            expect_end(&mut sidecar).with_context(|| format!("after {signal:?}"))?;
        }
        Ok(())
    });
}

#[test]
fn killed_sidecar_leaves_no_translator() {
    in_a_lab(|lab| {
        let (mut sidecar, launcher, _hooks) = served(lab)?;
        launcher.on_define_domain(&domain(), &Guest::new(BINDING).vmi())?;
        ensure!(sidecar.translators().len() == 1, "no translator");
        sidecar.signal(Signal::KILL)?;
        sidecar.wait(PROMPTLY)?;
        wait_for(PROMPTLY, "the orphan's end", || sidecar.translators_in_pod().is_empty())
    });
}

#[test]
fn translator_that_dies_is_replaced_at_once_and_leaves_no_zombie() {
    in_a_lab(|lab| {
        let (sidecar, launcher, hooks) = served(lab)?;
        launcher.on_define_domain(&domain(), &Guest::new(BINDING).vmi())?;
        let socket = outside(&hooks, &format!("/var/run/kubevirt-hooks/{CONTAINER}/net/default.sock"));
        let before = sidecar.translators();
        sidecar.kill_translators()?;
        wait_for(PROMPTLY, "another translator", || {
            let now = sidecar.translators();
            now.len() == 1 && now != before && UnixStream::connect(&socket).is_ok()
        })
        .with_context(|| sidecar.log())?;
        ensure!(sidecar.children() == sidecar.translators(), "children: {:?}", sidecar.children());
        let status = sidecar.status()?;
        let restarts = status.pointer("/interfaces/0/restarts").and_then(Value::as_u64);
        let end = status.pointer("/interfaces/0/last_end").and_then(Value::as_str);
        ensure!(restarts == Some(1) && end == Some("SIGKILL"), "{status}");
        Ok(())
    });
}

/// A sidecar that has been found, and its volume.
fn served(lab: &Lab) -> Result<(Sidecar<'_>, Launcher, Hooks)> {
    let hooks = Hooks::new(lab)?;
    let sidecar = Sidecar::start(lab, &hooks, &Options::new(CONTAINER, BINDING))?;
    let launcher = Launcher::find(hooks.folder(), 1, READY_LIMIT).with_context(|| sidecar.log())?;
    Ok((sidecar, launcher, hooks))
}

/// As much of a domain as a sidecar needs.
fn domain() -> String {
    "<domain type=\"kvm\" xmlns:qemu=\"http://libvirt.org/schemas/domain/qemu/1.0\">\n\
     \t<name>demo_guest</name>\n\t<memory unit=\"b\">536870912</memory>\n\
     \t<os>\n\t\t<type arch=\"x86_64\" machine=\"q35\">hvm</type>\n\t</os>\n\
     \t<devices>\n\t</devices>\n</domain>"
        .to_owned()
}

fn vhost_user_paths(domain: &Element) -> Vec<String> {
    let devices = domain.child("devices").into_iter();
    let interfaces = devices.flat_map(|devices| devices.all("interface"));
    let of_ours = interfaces.filter(|interface| interface.attribute("type") == Some("vhostuser"));
    let paths =
        of_ours.map(|interface| interface.child("source").and_then(|source| source.attribute("path")));
    paths.map(|path| path.unwrap_or("none").to_owned()).collect()
}

/// A path that compute sees, by its path outside.
fn outside(hooks: &Hooks, path: &str) -> PathBuf {
    hooks.folder().join(path.strip_prefix("/var/run/kubevirt-hooks/").unwrap_or(path))
}

fn lease(guest: &mut Domain<'_, '_>) -> Result<()> {
    guest.succeed("dhcp", SOON)?;
    let lease = guest.succeed("cat /run/lease", SOON)?;
    ensure!(lease.lines().any(|line| line == format!("ip={POD_V4}")), "{lease}");
    // In kubelet's resolv.conf.
    ensure!(lease.lines().any(|line| line == format!("dns={SERVER_V4}")), "{lease}");
    Ok(())
}

/// Again and again: the guest's NIC may be about to connect again.
fn page_from_outside(guest: &mut Domain<'_, '_>) -> Result<()> {
    let page = guest.succeed_within(&format!("timeout 2 wget -q -O - http://{SERVER_V4}/"), SOON)?;
    ensure!(page == PAGE, "the page is {page:?}");
    Ok(())
}

fn guest_page(lab: &Lab, guest: &mut Domain<'_, '_>) -> Result<()> {
    guest.succeed("mkdir -p /tmp/www; echo hello from the guest >/tmp/www/index.html", SOON)?;
    guest.succeed(&format!("httpd -p {GUEST_PORT} -h /tmp/www"), SOON)?;
    let page = services::get(lab.world(), SocketAddr::new(POD_V4.into(), GUEST_PORT), "/")?;
    ensure!(page == "hello from the guest\n", "the guest's page is {page:?}");
    Ok(())
}

/// The guest is reachable again soon after its translator was killed while it had a lot to do.
fn killing(lab: &Lab, sidecar: &Sidecar<'_>, guest: &mut Domain<'_, '_>) -> Result<()> {
    guest.succeed(
        &format!("wget -q -O /dev/null http://{SERVER_V4}/stream/{} >/dev/null 2>&1 &", 1_u64 << 40),
        SOON,
    )?;
    guest.succeed_within("[ $(cat /sys/class/net/eth0/statistics/rx_bytes) -gt 20000000 ]", SOON)?;
    let before = sidecar.translators();
    let killed = Instant::now();
    sidecar.kill_translators()?;
    let address = SocketAddr::new(POD_V4.into(), GUEST_PORT);
    // A connection that is made before QEMU is back waits for TCP's timers, which would be measured with it.
    let try_page = || services::get_within(lab.world(), address, "/", Duration::from_millis(500)).is_ok();
    wait_for(SOON, "the guest's page", try_page)?;
    let away = killed.elapsed();
    eprintln!("          away for {:.2} s", away.as_secs_f32());
    ensure!(away < PROMPTLY, "away for {away:?}");
    ensure!(sidecar.translators() != before, "the same translator");
    // Whom nobody serves any more is told so.
    guest.succeed_within("! pidof wget", SOON)?;
    page_from_outside(guest)
}

/// The guest receives more than its memory while its programs do not read, and nobody pays for it but QEMU.
fn receive(guest: &mut Domain<'_, '_>, group: &MemoryGroup) -> Result<()> {
    for number in 0..hoard::ROUNDS {
        let received = guest.succeed(&hoard::round(HTTP_PORT), 2 * SOON);
        let charged = (group.usage()?, group.shared()?, group.sockets()?, group.killed()?);
        received.with_context(|| format!("round {number}, charged {charged:?}"))?;
    }
    let (shared, killed) = (group.shared()?, group.killed()?);
    eprintln!("          charged {shared} of the guest's, at most {} in all", group.peak()?);
    ensure!(killed == 0, "the kernel killed something");
    ensure!(shared < MEMORY_LIMIT / 8, "{shared} bytes of the guest's memory are charged to the sidecar");
    Ok(())
}

/// The sidecar ends with status 0, and nothing of it is left.
fn expect_end(sidecar: &mut Sidecar<'_>) -> Result<()> {
    let status = sidecar.wait(PROMPTLY)?;
    ensure!(status.success(), "it ended with {status}: {}", sidecar.log());
    wait_for(PROMPTLY, "translators to end", || sidecar.translators_in_pod().is_empty())?;
    let sockets = sidecar.sockets();
    ensure!(sockets.is_empty(), "left: {sockets:?}");
    Ok(())
}

/// One named thing, with its time.
fn step<T>(name: &str, check: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = check().with_context(|| format!("step: {name}"));
    eprintln!("{:6.2} s  {name}", start.elapsed().as_secs_f32());
    result
}

/// Runs `story` in a lab. Panics while the lab exists, so that its logs are kept.
#[expect(clippy::unwrap_used, reason = "a failed story is a failed test")]
fn in_a_lab(story: impl FnOnce(&Lab) -> Result<()>) {
    // An emulated VM wants every core.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);

    let lab = Lab::new(Variant::DualStack).unwrap();
    story(&lab).unwrap();
}
