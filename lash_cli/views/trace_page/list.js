// A list of any length: only the rows in sight exist. Rows have one height, so a place is a multiplication.

const OVERSCAN = 8;

class RowList {
  constructor(scroller, sizer, rowHeight, renderRow) {
    this.scroller = scroller;
    this.sizer = sizer;
    this.rowHeight = rowHeight;
    this.renderRow = renderRow;
    this.count = 0;
    this.isQueued = false;
    scroller.addEventListener('scroll', () => this.queue(), { passive: true });
    new ResizeObserver(() => this.queue()).observe(scroller);
  }

  setCount(count) {
    this.count = count;
    this.sizer.style.height = `${count * this.rowHeight}px`;
    this.draw();
  }

  queue() {
    if (this.isQueued) return;
    this.isQueued = true;
    requestAnimationFrame(() => { this.isQueued = false; this.draw(); });
  }

  draw() {
    const top = this.scroller.scrollTop;
    const first = Math.max(0, Math.floor(top / this.rowHeight) - OVERSCAN);
    const last = Math.min(this.count, Math.ceil((top + this.scroller.clientHeight) / this.rowHeight) + OVERSCAN);
    const rows = [];
    for (let index = first; index < last; index += 1) {
      const row = this.renderRow(index);
      row.style.top = `${index * this.rowHeight}px`;
      row.style.height = `${this.rowHeight}px`;
      rows.push(row);
    }
    this.sizer.replaceChildren(...rows);
  }

  reveal(index) {
    const top = index * this.rowHeight;
    const height = this.scroller.clientHeight;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    else if (top + this.rowHeight > this.scroller.scrollTop + height) this.scroller.scrollTop = top + this.rowHeight - height;
    this.draw();
  }

  get pageSize() {
    return Math.max(1, Math.floor(this.scroller.clientHeight / this.rowHeight) - 1);
  }
}
