"""Pictures of a page, for the documentation and for looking at.
Usage: python3 screenshot.py BROWSER PAGE.html OUT.png [WIDTH] [light|dark] [HEIGHT]   (HEIGHT 0, or none: the whole page)
"""
import sys

from devtools import Browser, Page

browser = Browser(sys.argv[1])
try:
    page = Page(browser)
    more = sys.argv[4:] + [None] * 3
    height = int(more[2] or 0)
    page.emulate(width=int(more[0] or 1280), height=height or 900, scheme=more[1] or "light")
    page.open(sys.argv[2])
    if not height:
        page.emulate(width=int(more[0] or 1280), height=min(page.evaluate("document.documentElement.scrollHeight"), 12000), scheme=more[1] or "light")
    with open(sys.argv[3], "wb") as file:
        file.write(page.screenshot(whole=False))
finally:
    browser.close()
