"""Pictures of a page, for the documentation and for looking at.
Usage: python3 screenshot.py BROWSER PAGE.html OUT.png [--width W] [--height H] [--scheme light|dark] [--at SELECTOR] [--hover SELECTOR]
Without --height the whole page is shown. --at scrolls to an element, --hover puts the pointer into the middle of one.
"""
import argparse

from devtools import Browser, Page

parser = argparse.ArgumentParser()
parser.add_argument("browser")
parser.add_argument("page")
parser.add_argument("out")
parser.add_argument("--width", type=int, default=1280)
parser.add_argument("--height", type=int, default=0)
parser.add_argument("--scheme", choices=["light", "dark"], default="light")
parser.add_argument("--at")
parser.add_argument("--hover")
options = parser.parse_args()

browser = Browser(options.browser)
try:
    page = Page(browser)
    page.emulate(width=options.width, height=options.height or 900, scheme=options.scheme)
    page.open(options.page)
    if not options.height:
        height = min(page.evaluate("document.documentElement.scrollHeight"), 12000)
        page.emulate(width=options.width, height=height, scheme=options.scheme)
    if options.at:
        page.evaluate(f"document.querySelector({options.at!r}).scrollIntoView()")
    if options.hover:
        x, y = page.evaluate(f"(() => {{ const b = document.querySelector({options.hover!r}).getBoundingClientRect();"
                             " return [b.left + b.width / 2, b.top + b.height / 2]; })()")
        page.mouse("mouseMoved", x, y)
    with open(options.out, "wb") as file:
        file.write(page.screenshot(whole=False))
finally:
    browser.close()
