//! The page of a listing, in a browser.

use crate::support::{Browser, Fixture, Launch, Screen, keys, url};

#[test]
fn a_browser_is_driven() {
    let Some(browser) = Browser::open() else { return };
    let fixture = Fixture::new();
    fixture.text(
        "page.html",
        "<!DOCTYPE html><title>page</title><input id=text><button>b</button><script>
        document.querySelector('button').onclick = () => document.title = 'clicked';
        document.querySelector('input').onkeydown = event => { if (event.key == 'Escape') document.title = 'escaped'; };
        console.error('said');</script>",
    );
    let server = Launch::of(fixture.path()).start();
    browser.visit(&url(&server, "page.html"));
    assert_eq!(browser.run("return document.title"), "page");
    assert!(browser.console().iter().any(|line| line.starts_with("SEVERE") && line.contains("said")));
    browser.expect_no_complaint();
    browser.click("button");
    browser.until("document.title == 'clicked'");
    browser.type_into("#text", "some");
    browser.press(" text");
    assert_eq!(browser.run("return document.querySelector('input').value"), "some text");
    browser.press(keys::ESCAPE);
    browser.until("document.title == 'escaped'");
    browser.run("window.pressed = []; onkeydown = event => pressed.push(event.key)");
    let all = [keys::ENTER, keys::TAB, keys::LEFT, keys::UP, keys::RIGHT, keys::DOWN].concat();
    browser.press(&all);
    browser.press_with(keys::SHIFT, keys::TAB);
    let expected = ["Enter", "Tab", "ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown", "Shift", "Tab"];
    assert_eq!(browser.run("return pressed"), serde_json::json!(expected));
    browser.look_as(Screen::Phone);
    browser.prefer(&[("prefers-color-scheme", "dark")]);
    assert_eq!(browser.run("return [innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]")[1], true);
    browser.screenshot("driven");
    browser.reload();
    browser.visit("about:blank");
    browser.back();
    assert_eq!(browser.run("return document.title"), "page");
    server.stop();
}
