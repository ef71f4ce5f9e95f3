"""What a browser makes of reports. Usage: python3 check_reports.py FLARE BROWSER (tests/browser/run.sh finds the browser).

Every check can fail; the first ones prove it with pages that are broken on purpose.
"""
import math
import os
import subprocess
import sys
import tempfile

import runs
from devtools import Browser, Page

WIDE, PHONE = 1280, 390
failures = []


def check(ok, what):
    if not ok:
        failures.append(what)
        print("FAILED: " + what)


def check_quiet(page, path, name):
    check(not page.problems, f"{name}: {page.problems}")
    strangers = [url for url in page.requests if url != "file://" + path and not url.startswith("data:")]
    check(not strangers, f"{name}: asks for {strangers}")


def overflow(page):
    """By how many pixels the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def self_check(page, folder, report):
    """The instruments notice what they are to notice."""
    def opened(name, find, replacement):
        text = open(report, encoding="utf-8").read()
        assert find in text
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace(find, replacement, 1))
        page.open(path)
        return path

    page.emulate()
    policy = "<meta http-equiv=\"Content-Security-Policy\""
    opened("throws.html", policy, "<script>null.x</script><meta name=\"x\"")
    check(any("TypeError" in p for p in page.problems), f"self-check: an exception goes unnoticed: {page.problems}")
    opened("complains.html", policy, "<script>console.error('oh')</script><meta name=\"x\"")
    check(any("oh" in p for p in page.problems), f"self-check: a console error goes unnoticed: {page.problems}")
    opened("refused.html", "</main>", "</main><script>document.title = 'stranger'</script>")
    check(any("Content Security Policy" in p for p in page.problems), f"self-check: a refused script goes unnoticed: {page.problems}")
    check(page.evaluate("document.title") != "stranger", "the page's policy lets a foreign script run")
    opened("asks.html", policy, "<img src=\"missing.png\"><meta name=\"x\"")
    check(any(url.endswith("missing.png") for url in page.requests), "self-check: a request goes unnoticed")
    opened("data.html", "{\"title\"", "{\"title")
    check(any("SyntaxError" in p for p in page.problems), f"self-check: damaged chart data go unnoticed: {page.problems}")
    opened("wide.html", "</main>", "<div style=\"width:3000px\">wide</div></main>")
    check(overflow(page) > 1000, "self-check: a page that is too wide goes unnoticed")


def check_page(page, path, name, n_charts):
    """What holds of every report."""
    colours = {}
    for width in (WIDE, PHONE):
        for scheme in ("light", "dark"):
            page.emulate(width=width, scheme=scheme)
            page.open(path)
            check_quiet(page, path, f"{name} {width} {scheme}")
            check(overflow(page) <= 0, f"{name}: {overflow(page)} pixels wider than a window of {width}")
            colours[scheme] = page.evaluate("""(() => {
              const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number); return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255; };
              const style = getComputedStyle(document.body);
              return [light(style.backgroundColor), light(style.color),
                      getComputedStyle(document.querySelector('.plot .curve')).stroke];
            })()""")
            small = page.evaluate("Math.min(...[...document.querySelectorAll('.ticks span')].map(s => parseFloat(getComputedStyle(s).fontSize)))")
            check(small >= 10, f"{name}: labels of {small} px at {width}")
    check(colours["light"][0] > 0.9 and colours["light"][1] < 0.2, f"{name}: light colours {colours['light']}")
    check(colours["dark"][0] < 0.15 and colours["dark"][1] > 0.8, f"{name}: dark colours {colours['dark']}")
    check(colours["light"][2] != colours["dark"][2], f"{name}: curves have the same colour in light and dark")

    page.emulate()
    page.open(path)
    check(page.evaluate("document.querySelectorAll('figure.chart [role=slider]').length") == n_charts, f"{name}: not {n_charts} live charts")
    headings = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => Number(h.tagName[1]))")
    check(headings[0] == 1 and headings.count(1) == 1 and all(b - a <= 1 for a, b in zip(headings, headings[1:])),
          f"{name}: headings skip a level: {headings}")
    check(page.evaluate("[...document.querySelectorAll('table')].every(t => t.caption && t.caption.textContent)"), f"{name}: a table without caption")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    unnamed = [n["role"]["value"] for n in nodes if not n["ignored"] and n["role"]["value"] in ("image", "img", "slider", "button", "figure_", "table")
               and not n.get("name", {}).get("value")]
    check(not unnamed, f"{name}: without a name for screen readers: {unnamed}")

    # The script draws what the program drew: opening the page with scripts changes no curve by more than rounding.
    curves = "[...document.querySelectorAll('.plot .curve')].map(p => p.getAttribute('d').match(/[-\\d.]+/g).map(Number))"
    labels = "[...document.querySelectorAll('.ticks span')].map(s => s.textContent)"
    drawn, said = page.evaluate(curves), page.evaluate(labels)
    page.emulate(scripts=False)
    page.open(path)
    check_quiet(page, path, name + " without scripts")
    plain = page.evaluate(curves)
    check(len(plain) == len(drawn) > 0, f"{name}: curves differ in number with and without scripts")
    worst = max((abs(a - b) for p, q in zip(plain, drawn) for a, b in zip(p, q)), default=0)
    check([len(p) for p in plain] == [len(q) for q in drawn] and worst <= 1, f"{name}: the script moves curves by {worst}")
    check(page.evaluate(labels) == said, f"{name}: the script's labels differ: {said} {page.evaluate(labels)}")
    check(page.evaluate("document.querySelectorAll('button, .hint:not([hidden])').length") == 0, f"{name}: controls without scripts")
    page.emulate()

    # On paper: light even for readers of dark pages, without controls, and it prints.
    page.emulate(scheme="dark", media="print")
    page.open(path)
    check(page.evaluate("getComputedStyle(document.querySelector('.plot .curve')).stroke") == colours["light"][2], f"{name}: paper is not light")
    check(page.evaluate("[...document.querySelectorAll('.tools, .layer, .hint')].every(e => getComputedStyle(e).display === 'none')"),
          f"{name}: controls on paper")
    pdf = page.pdf()
    check(pdf.startswith(b"%PDF") and len(pdf) > 5000, f"{name}: printing gave {len(pdf)} bytes")
    page.emulate()


def check_interaction(page, path):
    page.emulate()
    page.open(path)
    page.evaluate("document.querySelector('#loss').scrollIntoView()")
    box = page.evaluate("(() => { const b = document.querySelector('#loss .layer').getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()")
    left, top, width, height = box
    state = """(() => { const f = document.querySelector('#loss'), l = f.querySelector('.layer'), x = f.querySelector('.ticks.x');
      return {tip: f.querySelector('.tip').hidden ? null : f.querySelector('.tip').innerText, said: l.getAttribute('aria-valuetext'),
              now: Number(l.getAttribute('aria-valuenow')), ticks: [...x.children].map(s => Number(s.textContent)),
              y: [...f.querySelectorAll('.ticks.y span')].map(s => s.textContent).join(), reset: !f.querySelector('.tools button').hidden,
              d: f.querySelector('.curve').getAttribute('d'), focus: document.activeElement === l}; })()"""

    def see():
        return page.evaluate(state)

    start = see()
    check(start["tip"] is None and not start["reset"], f"at rest: {start}")
    page.mouse("mouseMoved", left + width / 2, top + height / 2)
    middle = see()
    check(middle["tip"] and "training" in middle["tip"] and "validation" in middle["tip"], f"hover shows no values: {middle}")
    check(abs(middle["now"] - 205) <= 10, f"hover in the middle reads step {middle['now']}")
    # The value is the logged one, to six digits.
    step = middle["now"]
    loss = 0.3 + 2 * math.exp(-5 * step / 400) + 0.05 * math.sin(step)
    check(f"training {loss:.6g}" in middle["said"], f"step {step} reads {middle['said']}, logged was {loss:.6g}")
    page.mouse("mouseMoved", left + width / 2, top - 200)
    check(see()["tip"] is None, "the values stay when the pointer has left")

    page.drag(left + 0.25 * width, left + 0.5 * width, top + height / 2)
    zoomed = see()
    check(zoomed["reset"] and zoomed["d"] != start["d"] and zoomed["y"] != start["y"], "dragging does not zoom")
    check(min(zoomed["ticks"]) >= 100 and max(zoomed["ticks"]) <= 220, f"dragging over 105..205 shows {zoomed['ticks']}")
    for count in (1, 2):
        page.mouse("mousePressed", left + 9, top + 9, button="left", buttons=1, clickCount=count)
        page.mouse("mouseReleased", left + 9, top + 9, button="left", clickCount=count)
    check(see()["d"] == start["d"] and not see()["reset"], "a double click does not show everything again")

    page.evaluate("document.querySelector('#loss .layer').focus()")
    page.key("End")
    check(see()["now"] == 400, f"End reads step {see()['now']}")
    page.key("ArrowLeft")
    check(see()["now"] == 390 and "training" in see()["said"], f"left of the end: {see()['said']}")
    page.key("Home")
    page.key("ArrowRight", shift=True)
    check(see()["now"] == 110, f"ten to the right of the first: {see()['now']}")
    page.key("+")
    check(see()["reset"] and max(see()["ticks"]) < 300, f"+ does not zoom in: {see()['ticks']}")
    page.key("-")
    check(not see()["reset"], "- does not zoom out")
    page.key("+")
    page.key("Escape")
    check(see()["d"] == start["d"] and see()["tip"] is None, "Escape does not reset")
    check(see()["focus"], "the chart loses the focus")
    outline = page.evaluate("(() => { const s = getComputedStyle(document.querySelector('#loss .layer')); return [s.outlineStyle, parseFloat(s.outlineWidth)]; })()")
    check(outline[0] != "none" and outline[1] >= 1, f"the focus is invisible: {outline}")

    page.evaluate("document.querySelectorAll('#loss .tools button')[1].click()")
    linear = see()
    check(linear["d"] != start["d"] and page.evaluate("document.querySelectorAll('#loss .tools button')[1].ariaPressed") == "false", "log does not switch")
    page.evaluate("document.querySelectorAll('#loss .tools button')[1].click()")
    check(see()["d"] == start["d"], "log does not switch back")
    page.evaluate("document.querySelector('#loss .legend button').click()")
    check(see()["d"] == "" and page.evaluate("document.querySelector('#loss .legend button').ariaPressed") == "false", "a legend name does not hide its curve")
    page.evaluate("document.querySelector('#loss .legend button').click()")
    check(see()["d"] == start["d"], "a legend name does not bring its curve back")
    check_quiet(page, path, "after all that")

    # On a phone the values stay inside the window, wherever the cursor is.
    page.emulate(width=PHONE)
    page.open(path)
    for key in ["Home"] + 20 * ["ArrowRight"]:
        page.evaluate("document.querySelector('#loss .layer').focus()")
        page.key(key, shift=False)
        if key != "Home":
            page.key("ArrowRight")
        left, right = page.evaluate("(() => { const b = document.querySelector('#loss .tip').getBoundingClientRect(); return [b.left, b.right]; })()")
        check(right > left >= 0 and right <= PHONE, f"on a phone the values stand at {left} to {right}")
    check(overflow(page) <= 0, "showing values widens the page")


def check_text(page, path):
    page.open(path)
    text = page.evaluate("document.body.innerText")
    for part in ("<listops> & 'friends'", "data/<b>listops</b>", "0.6600", "0.2100"):
        check(part in text, f"the page does not show {part}")
    check("aria-label=\"loss, training" in open(path, encoding="utf-8").read(), "the chart of the loss has no description")


def main():
    flare, browser_program = os.path.abspath(sys.argv[1]), sys.argv[2]
    with tempfile.TemporaryDirectory(prefix="flare_reports_") as folder:
        one, two, darcy = (os.path.join(folder, name) for name in ("one", "two", "darcy"))
        runs.classification(one)
        runs.classification(two, speed=3.0, lr=5e-4)
        runs.fields(darcy)
        both = os.path.join(folder, "both.html")
        for arguments in ([one], [darcy], [one, two, "--out", both]):
            subprocess.run([flare, "report", *arguments], check=True, stdout=subprocess.DEVNULL, cwd=folder)
        browser = Browser(browser_program)
        try:
            page = Page(browser)
            self_check(page, folder, one + "/report.html")
            check_page(page, one + "/report.html", "classification", 8)  # six over the steps, two blocks
            check_page(page, darcy + "/report.html", "fields", 6)
            check_page(page, both, "two runs", 8)
            check_interaction(page, one + "/report.html")
            check_text(page, one + "/report.html")
            page.open(darcy + "/report.html")
            check(page.evaluate("[...document.images].length === 3 && [...document.images].every(i => i.naturalWidth === 900 && i.alt)"), "panels are not shown")
        finally:
            browser.close()
    if failures:
        sys.exit(f"{len(failures)} checks failed")
    print("reports: every check passed")


if __name__ == "__main__":
    main()
