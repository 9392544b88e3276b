//! VMs as libvirt runs them, over each of the three interfaces by which it can reach the translator: what a user would
//! notice from `create` to `destroy`, and what must not be left behind.
#![expect(clippy::tests_outside_test_module, reason = "a file of integration tests is a test module")]

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use vm_tests::lab::{Lab, POD_V4, SERVER_V4, Variant};
use vm_tests::libvirt::{Backend, Domain, FORWARDED_PORT, Interface, Libvirt};
use vm_tests::services::{self, HttpServer, PAGE};
use vm_tests::translator;
use vm_tests::vm::Image;

/// For what answers at once, in an emulated guest on a busy machine.
const SOON: Duration = Duration::from_secs(20);
const HTTP_PORT: u16 = 80;

#[test]
fn passt_of_a_user_interface() {
    in_a_room(|room| {
        let mut guest = room.life(&Interface::User, None)?;
        let arguments = room.libvirt.translators_arguments()?;
        ensure!(!arguments.contains("--vhost-user"), "{arguments}");
        ensure!(arguments.contains(" --one-off ") && arguments.contains(" --interface eth0 "), "{arguments}");
        room.killing(&mut guest)?;
        room.death(guest, None)
    });
}

#[test]
fn passt_of_a_vhost_user_interface() {
    in_a_room(|room| {
        let mut guest = room.life(&Interface::VhostUserPasst, None)?;
        let arguments = room.libvirt.translators_arguments()?;
        ensure!(arguments.starts_with("passt --vhost-user --one-off "), "{arguments}");
        room.killing(&mut guest)?;
        room.death(guest, None)
    });
}

#[test]
fn socket_of_a_vhost_user_backend_that_stays() {
    in_a_room(|room| {
        let mut backend = room.libvirt.backend()?;
        let guest = room.life(&Interface::VhostUser(backend.socket.clone()), Some(&backend))?;
        room.death(guest, Some(&backend))?;
        ensure!(!backend.child.has_ended(), "the back-end ended with its guest: {}", backend.child.log());
        backend.child.signal(Signal::TERM)?;
        let status = backend.child.wait(SOON)?;
        ensure!(status.success(), "the back-end ended with {status}: {}", backend.child.log());
        room.libvirt.expect_nothing_left(None)
    });
}

/// Runs `story` with a libvirt. Panics while the lab exists, so that its logs are kept.
#[expect(clippy::unwrap_used, reason = "a failed story is a failed test")]
fn in_a_room(story: impl FnOnce(&Room<'_>) -> Result<()>) {
    // An emulated VM wants every core: one at a time, or the limits above would have to be much longer.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);

    let lab = Lab::new(Variant::DualStack).unwrap();
    let room = Room::new(&lab).unwrap();
    story(&room).unwrap();
}

/// A libvirt and an outside with a server.
struct Room<'lab> {
    libvirt: Libvirt<'lab>,
    _http: HttpServer,
    lab: &'lab Lab,
}

impl<'lab> Room<'lab> {
    fn new(lab: &'lab Lab) -> Result<Self> {
        let http = HttpServer::start(lab.world(), HTTP_PORT)?;
        let libvirt = Libvirt::start(lab, &translator::program()?, &Image::build()?)?;
        Ok(Self { libvirt, _http: http, lab })
    }

    /// A guest that is created, paused, and saved and restored, which makes another QEMU of it. `backend` is not its own
    /// and stays.
    fn life(&self, interface: &Interface, backend: Option<&Backend>) -> Result<Domain<'_, 'lab>> {
        let libvirt = &self.libvirt;
        let mut guest = self.step("a boot", |_| Domain::create(libvirt, interface))?;
        self.step("a lease with the pod's address", |_| {
            guest.succeed("dhcp", SOON)?;
            let lease = guest.succeed("cat /run/lease", SOON)?;
            ensure!(lease.lines().any(|line| line == format!("ip={POD_V4}")), "{lease}");
            Ok(())
        })?;
        self.step("a page from the outside", |_| page_from_outside(&mut guest))?;
        self.step("the guest's page, from the outside", |room| {
            guest.succeed("mkdir -p /tmp/www; echo hello from the guest >/tmp/www/index.html", SOON)?;
            guest.succeed(&format!("httpd -p {FORWARDED_PORT} -h /tmp/www"), SOON)?;
            room.expect_guest_page()
        })?;
        self.step("a pause", |room| {
            guest.suspend()?;
            guest.resume()?;
            page_from_outside(&mut guest)?;
            room.expect_guest_page()
        })?;
        let saved = self.step("saved to a file", |_| guest.save())?;
        self.step("nothing left of the saved guest", |room| room.libvirt.expect_nothing_left(backend))?;
        let mut guest = self.step("restored", |_| saved.restore())?;
        // With the lease from before: the guest has noticed nothing.
        self.step("pages again", |room| {
            page_from_outside(&mut guest)?;
            room.expect_guest_page()
        })?;
        Ok(guest)
    }

    /// libvirt starts its passt again on QEMU's word that the socket closed; QEMU comes back after 5 s.
    fn killing(&self, guest: &mut Domain<'_, '_>) -> Result<()> {
        self.step("its translator killed", |room| {
            room.libvirt.kill_translator()?;
            page_from_outside(guest)
        })
    }

    fn death(&self, guest: Domain<'_, '_>, backend: Option<&Backend>) -> Result<()> {
        self.step("destroyed", |_| guest.destroy())?;
        self.step("nothing left", |room| room.libvirt.expect_nothing_left(backend))?;
        self.libvirt.expect_calm_translator()
    }

    /// One named thing a user would notice, with its time.
    fn step<T>(&self, name: &str, check: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = check(self).with_context(|| format!("step: {name}"));
        eprintln!("{:6.2} s  {name}", start.elapsed().as_secs_f32());
        result
    }

    fn expect_guest_page(&self) -> Result<()> {
        let page = services::get(self.lab.world(), SocketAddr::new(POD_V4.into(), FORWARDED_PORT), "/")?;
        ensure!(page == "hello from the guest\n", "the guest's page is {page:?}");
        Ok(())
    }
}

/// Again and again: after a pause the guest's NIC may be about to connect again.
fn page_from_outside(guest: &mut Domain<'_, '_>) -> Result<()> {
    let page = guest.succeed_within(&format!("timeout 2 wget -q -O - http://{SERVER_V4}/"), SOON)?;
    ensure!(page == PAGE, "the page is {page:?}");
    Ok(())
}
