// The page of a listing comes alive: search, order, two views, pictures, durations, a player and uploads.
//
// The rows are the server's and work without this. A name reaches the page as text only (`textContent`, `append`), never as
// markup; an address is always the row's own `href`. What is costly is done for what is in sight: pictures load when they come
// near, a duration is asked for at most twice at a time and once for each file.
'use strict';
(() => {
  /** How many files are asked for their duration at a time. */
  const ASKED = 2;
  /** How many files are sent at a time. */
  const SENT = 2;
  /** Matches in which the words looked for are marked; a search for one letter finds thousands. */
  const MARKED = 500;
  /** The largest picture, in bytes, that is loaded to stand for an entry. */
  const PICTURE = 2 << 20;
  /** Files whose position is remembered; the one played least recently goes. */
  const POSITIONS = 200;
  /** Seconds from the beginning in which there is nothing to come back to. */
  const BEGINNING = 5;

  const find = (selector, within = document) => within.querySelector(selector);
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const icon = name => make('i', { className: `icon ${name}` });

  // ---- What the browser keeps. It may be switched off, and then nothing is kept.

  const store = {
    get(key, otherwise) {
      try {
        return JSON.parse(localStorage.getItem(`highwater:${key}`)) ?? otherwise;
      } catch {
        return otherwise;
      }
    },
    set(key, value) {
      try {
        localStorage.setItem(`highwater:${key}`, JSON.stringify(value));
      } catch { /* Full, or not allowed. */ }
    },
  };

  // ---- Words for people.

  const words = (count, one, many) => `${count.toLocaleString()} ${count === 1 ? one : many}`;
  /** A length in bytes, as the server writes it. */
  const size = bytes => {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
    let power = 0;
    for (; bytes >= 1024 && power < 6; power += 1) bytes /= 1024;
    const digits = power > 0 && bytes < 100 ? 1 : 0;
    return `${(Math.floor(bytes * 10 ** digits) / 10 ** digits).toFixed(digits)} ${units[power]}`;
  };
  /** A time in seconds, as `1:02:03`. */
  const clock = seconds => {
    const whole = Math.round(seconds);
    const two = number => String(number).padStart(2, '0');
    const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    return hours > 0 ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
  };
  const day = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium' });
  const moment = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'medium' });
  /** A name without its ending, in small letters: what belongs together has the same. */
  const stem = name => name.replace(/\.[^.]*$/, '').toLowerCase();
  /** A text as it is compared in a search: in small letters and without accents. */
  const fold = text => (/^[\x20-\x7e]*$/.test(text) ? text : text.normalize('NFKD').replace(/\p{M}/gu, '')).toLowerCase();

  // ---- The entries.

  const table = find('table');
  let body = table.tBodies[0];
  let entries = read(body);
  /** Those that are to be seen, in their order. */
  let shown = entries;
  /** By stem, the pictures and captions that may belong to others; and the picture of the folder itself. */
  let pictures, captions, cover;

  function read(from) {
    return [...from.rows].filter(row => row.className !== 'up').map(row => {
      const link = find('a', row);
      const name = link.textContent.replace(/\/$/, '');
      link.textContent = name;
      return {
        row, link, name, href: link.getAttribute('href'), kind: row.className, folded: fold(name),
        size: Number(find('data', row)?.value ?? 0), modified: Date.parse(find('time', row).dateTime),
      };
    });
  }

  /** Sees which entries belong to which. */
  function relate() {
    const small = entries.filter(entry => entry.kind === 'image' && entry.size <= PICTURE);
    pictures = new Map(small.map(entry => [stem(entry.name), entry]));
    cover = ['cover', 'folder', 'poster'].map(name => pictures.get(name)).find(Boolean);
    captions = new Map(entries.filter(entry => /\.vtt$/i.test(entry.name)).map(entry => [stem(entry.name), entry]));
    const films = new Set(entries.filter(isMedia).map(entry => stem(entry.name)));
    for (const entry of entries) {
      const belongs = films.has(stem(entry.name)) || (entry === cover && films.size > 0);
      entry.beside = belongs && (entry.kind === 'image' || entry.kind === 'captions');
    }
  }
  const isMedia = entry => entry.kind === 'video' || entry.kind === 'audio';

  /** The picture that stands for an entry, if there is one. A folder's own goes for music, and for a film that is alone. */
  function picture(entry) {
    if (entry.kind === 'image') return entry.size <= PICTURE ? entry : undefined;
    if (!isMedia(entry)) return undefined;
    const own = pictures.get(stem(entry.name));
    const alone = entry.kind === 'audio' || entries.filter(other => other.kind === 'video').length === 1;
    return own ?? (alone ? cover : undefined);
  }

  // ---- Where one is: the path as steps, and what is here.

  const heading = find('h1');
  const path = heading.textContent;
  const steps = path.split('/').filter(Boolean);
  const place = steps.at(-1) ?? 'Library';
  const count = make('p', { id: 'count' });
  count.setAttribute('role', 'status');
  const banner = heading.parentElement;

  function settle() {
    heading.textContent = place;
    const up = steps.map((_, index) => make('li', {}, make('a', {
      href: '../'.repeat(steps.length - index), textContent: index === 0 ? 'Library' : steps[index - 1],
    })));
    const inside = make('div', {}, heading, count);
    if (up.length > 0) {
      const crumbs = make('nav', {}, make('ol', {}, ...up));
      crumbs.setAttribute('aria-label', 'Folders above');
      inside.prepend(crumbs);
    }
    banner.replaceChildren(inside);
    if (cover && entries.some(isMedia)) {
      banner.prepend(make('img', { src: cover.href, alt: '', onerror: event => event.target.remove() }));
    }
    find('.up', body)?.remove();
  }

  function summarize(searched) {
    if (searched) {
      const found = words(shown.length, 'match', 'matches');
      count.textContent = shown.length === 0 ? 'Nothing found' : `${found} of ${entries.length.toLocaleString()}`;
      return;
    }
    const folders = entries.filter(entry => entry.kind === 'folder').length;
    const files = entries.length - folders;
    const all = entries.reduce((sum, entry) => sum + entry.size, 0);
    const parts = [];
    if (folders > 0) parts.push(words(folders, 'folder', 'folders'));
    if (files > 0) parts.push(words(files, 'file', 'files'), size(all));
    count.textContent = parts.join(' · ');
  }

  // ---- Tools: search, order, view.

  const tools = find('#tools').content.cloneNode(true).firstElementChild;
  const search = find('input[type=search]', tools);
  const nothing = make('p', { className: 'none', hidden: true });
  /** What belongs to a film is seen with it, and by itself only if it is searched for or asked for. */
  let together = store.get('together', true);
  const beside = make('p', { className: 'beside', hidden: true });

  /** Shows the entries that have all the words. */
  function sift() {
    const wanted = fold(search.value).split(/\s+/).filter(Boolean);
    const fits = entry => wanted.every(word => entry.folded.includes(word)) && !(entry.beside && together && wanted.length === 0);
    shown = entries.filter(entry => {
      const is = fits(entry);
      entry.row.hidden = !is;
      return is;
    });
    for (const entry of entries) {
      if (entry.marked) entry.link.textContent = entry.name;
      entry.marked = false;
    }
    if (wanted.length > 0) shown.slice(0, MARKED).forEach(entry => mark(entry, wanted));
    nothing.hidden = shown.length > 0 || entries.length === 0;
    nothing.textContent = `Nothing here matches “${search.value.trim()}”.`;
    const apart = entries.filter(entry => entry.beside).length;
    beside.hidden = apart === 0 || wanted.length > 0;
    const what = words(apart, 'picture or caption file', 'pictures and caption files');
    const toggle = make('button', { type: 'button', textContent: together ? 'Show' : 'Hide' });
    toggle.addEventListener('click', () => {
      together = !together;
      store.set('together', together);
      sift();
      find('button', beside).focus();
    });
    beside.replaceChildren(`${what} ${apart === 1 ? 'belongs' : 'belong'} to what plays here.`, toggle);
    summarize(wanted.length > 0);
  }

  /** Marks the words in a name. Where folding moved the letters, each is folded by itself to find its place. */
  function mark(entry, wanted) {
    const letters = [...entry.name];
    const folded = letters.map(fold);
    const starts = [];
    folded.reduce((at, letter, index) => {
      starts[index] = at;
      return at + letter.length;
    }, 0);
    const text = folded.join('');
    const is = new Uint8Array(letters.length);
    for (const word of wanted) {
      for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + word.length)) {
        starts.forEach((start, index) => {
          if (start < at + word.length && start + folded[index].length > at) is[index] = 1;
        });
      }
    }
    const nodes = [];
    for (let begin = 0, end; begin < letters.length; begin = end) {
      for (end = begin + 1; end < letters.length && is[end] === is[begin];) end += 1;
      const piece = letters.slice(begin, end).join('');
      nodes.push(is[begin] ? make('mark', { textContent: piece }) : piece);
    }
    entry.link.replaceChildren(...nodes);
    entry.marked = true;
  }

  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: 'base' });
  const orders = {
    name: (a, b) => collator.compare(a.name, b.name) || (a.name < b.name ? -1 : 1),
    size: (a, b) => a.size - b.size,
    modified: (a, b) => a.modified - b.modified,
  };
  const columns = ['name', 'size', 'modified'];
  let order = store.get('order', null);
  if (!columns.includes(order?.by)) order = { by: 'name', down: false };

  /** Puts the rows in order, folders first. */
  function sort() {
    const folders = entry => (entry.kind === 'folder' ? 0 : 1);
    const turn = order.down ? -1 : 1;
    entries.sort((a, b) => folders(a) - folders(b) || turn * orders[order.by](a, b) || orders.name(a, b));
    // Rows that are in their places stay there; others are moved where the browser does not lay out each step.
    if (entries.some((entry, index) => body.rows[index] !== entry.row)) {
      const focused = document.activeElement;
      body.remove();
      body.append(...entries.map(entry => entry.row));
      table.append(body);
      if (body.contains(focused)) focused.focus();
    }
    columns.forEach((by, index) => {
      const head = table.tHead.rows[0].cells[index];
      if (by === order.by) head.setAttribute('aria-sort', order.down ? 'descending' : 'ascending');
      else head.removeAttribute('aria-sort');
    });
  }

  function addOrders() {
    const titles = ['Name', 'Size', 'Modified'];
    columns.forEach((by, index) => {
      const button = make('button', { type: 'button', textContent: titles[index] });
      button.addEventListener('click', () => {
        // What is large and what is new is looked for first.
        order = { by, down: order.by === by ? !order.down : by !== 'name' };
        store.set('order', order);
        sort();
        sift();
      });
      table.tHead.rows[0].cells[index].replaceChildren(button);
    });
  }

  function view(as) {
    document.body.classList.toggle('cards', as === 'grid');
    for (const button of tools.querySelectorAll('[data-view]')) {
      button.setAttribute('aria-pressed', String(button.dataset.view === as));
    }
  }

  tools.addEventListener('click', event => {
    const as = event.target.closest('[data-view]')?.dataset.view;
    if (!as) return;
    view(as);
    store.set('view', as);
  });
  search.addEventListener('input', sift);
  search.addEventListener('keydown', event => {
    // Enter and Escape are the input method's while it composes.
    if (event.isComposing) return;
    if (event.key === 'Escape') {
      if (search.value === '') search.blur();
      search.value = '';
      sift();
    } else if (event.key === 'Enter' && shown.length > 0) {
      shown[0].link.click();
    } else if (event.key === 'ArrowDown' && shown.length > 0) {
      shown[0].link.focus();
    } else {
      return;
    }
    event.preventDefault();
  });
  document.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey || player.open || event.target.matches('input')) return;
    if (event.key === '/') {
      search.focus();
      search.select();
    } else if (event.key === 'Escape' && search.value !== '') {
      search.value = '';
      sift();
    } else if (!walk(event)) {
      return;
    }
    event.preventDefault();
  });

  /** Goes from entry to entry by the arrows; whether it did. */
  function walk(event) {
    const at = shown.findIndex(entry => entry.link === event.target);
    const wide = document.body.classList.contains('cards');
    const across = wide ? getComputedStyle(body).gridTemplateColumns.split(' ').length : 1;
    const way = { ArrowDown: across, ArrowUp: -across, ...(wide && { ArrowRight: 1, ArrowLeft: -1 }) }[event.key];
    if (at < 0 || !way) return false;
    if (at + way < 0) search.focus();
    else shown[Math.min(at + way, shown.length - 1)].link.focus();
    return true;
  }

  // ---- What is done for a row when it comes near: its picture, its date, its duration.

  const lengths = {
    /** By address and version: seconds, or null where there is none to be had. */
    known: new Map(),
    waiting: new Set(),
    asked: 0,
    key: entry => `${entry.href} ${entry.size} ${entry.modified}`,
    want(entry) {
      const known = this.known.get(this.key(entry));
      if (known !== undefined) this.show(entry, known);
      else this.waiting.add(entry);
      this.ask();
    },
    forget(entry) {
      this.waiting.delete(entry);
    },
    ask() {
      for (const entry of this.waiting) {
        if (this.asked === ASKED) return;
        this.waiting.delete(entry);
        this.asked += 1;
        fetch(`${entry.href}?info`, { headers: { Accept: 'application/json' } })
          .then(reply => (reply.ok ? reply.json() : { duration: null }))
          .catch(() => ({ duration: null }))
          .then(({ duration }) => {
            this.asked -= 1;
            this.known.set(this.key(entry), duration);
            this.show(entry, duration);
            this.ask();
          });
      }
    },
    show(entry, seconds) {
      near.unobserve(entry.row);
      if (typeof seconds !== 'number' || find('.len', entry.row)) return;
      const length = make('span', { className: 'len' }, make('span', { className: 'vh', textContent: ' plays ' }), clock(seconds));
      entry.link.after(length);
    },
  };

  const byRow = new WeakMap();
  const near = new IntersectionObserver(changes => {
    for (const { target, isIntersecting } of changes) {
      const entry = byRow.get(target);
      if (isIntersecting) dress(entry);
      else lengths.forget(entry);
    }
  }, { rootMargin: '300px' });

  function dress(entry) {
    if (!entry.dressed) {
      entry.dressed = true;
      const date = new Date(entry.modified);
      const time = find('time', entry.row);
      time.textContent = day.format(date);
      time.title = moment.format(date);
      const shows = picture(entry);
      if (shows) {
        const image = make('img', { className: 'art', alt: '', loading: 'lazy', decoding: 'async', src: shows.href });
        image.addEventListener('error', () => image.remove());
        entry.link.before(image);
      }
    }
    if (isMedia(entry)) lengths.want(entry);
    else near.unobserve(entry.row);
  }

  /** Takes the rows as they are now. */
  function adopt() {
    relate();
    for (const entry of entries) {
      byRow.set(entry.row, entry);
      near.observe(entry.row);
      // A layout of its own would make the browser forget that it is a table.
      entry.row.setAttribute('role', 'row');
      for (const cell of entry.row.cells) cell.setAttribute('role', 'cell');
    }
    sort();
    sift();
  }

  // ---- The player.

  const player = find('#player');
  const stage = find('.stage', player);
  const title = find('h2', player);
  const whereabouts = find('.place', player);
  const save = make('a', { className: 'tool save', title: 'Download', download: '' }, icon('save'));
  save.setAttribute('aria-label', 'Download');
  find('.leave', player).before(save);
  const resumed = find('.resumed', player);
  const [previous, next] = [find('.previous', player), find('.next', player)];
  const pageTitle = document.title;
  /** What is shown, and the element that plays it if it plays. */
  let current, medium;
  /** How loud, how fast and whether with captions, from one file to the next. */
  const habits = { volume: 1, muted: false, defaultPlaybackRate: 1, captions: false };

  const positions = {
    url: entry => new URL(entry.href, location.href).pathname,
    get(entry) {
      return store.get('positions', {})[this.url(entry)];
    },
    /** Keeps a position; none near the beginning and near the end. */
    keep(entry, { currentTime, duration }) {
      if (!Number.isFinite(duration)) return;
      const all = store.get('positions', {});
      const url = this.url(entry);
      delete all[url];
      const end = duration - Math.min(30, Math.max(2, duration / 20));
      if (currentTime >= BEGINNING && currentTime < end) all[url] = Math.round(currentTime * 10) / 10;
      // The keys of an object keep the order in which they were put in.
      Object.keys(all).slice(0, -POSITIONS).forEach(oldest => delete all[oldest]);
      store.set('positions', all);
    },
  };

  const playsPlaylists = make('video').canPlayType('application/vnd.apple.mpegurl') !== '';
  const plays = entry => isMedia(entry) || (entry.kind === 'playlist' && playsPlaylists && /\.m3u8$/i.test(entry.name));
  const opens = entry => plays(entry) || entry.kind === 'image';
  /** The entry so many steps further among those that are to be seen. */
  function step(from, way, wanted) {
    const all = shown.includes(from) ? shown : entries;
    let at = all.indexOf(from);
    do at += way; while (at >= 0 && at < all.length && !wanted(all[at]));
    return all[at];
  }

  /** Puts this on the stage. What had the keyboard may go with what stood there; then the title gets it. */
  function stand(element) {
    stage.replaceChildren(element);
    if (player.open && !player.contains(document.activeElement)) title.focus();
  }

  /** Shows an entry in the player, which is open or opens. */
  function show(entry) {
    leave();
    current = entry;
    title.textContent = entry.name;
    document.title = entry.name;
    save.href = `${entry.href}?download`;
    const all = (shown.includes(entry) ? shown : entries).filter(opens);
    whereabouts.textContent = `${all.indexOf(entry) + 1} of ${all.length} in ${place}`;
    previous.disabled = !step(entry, -1, opens);
    next.disabled = !step(entry, 1, opens);
    if (plays(entry)) play(entry);
    else stand(make('img', { src: entry.href, alt: entry.name, onerror: () => fail(entry) }));
    if (!player.open) player.showModal();
  }

  function play(entry) {
    const isAudio = entry.kind === 'audio';
    const poster = picture(entry);
    medium = make(isAudio ? 'audio' : 'video', { controls: true, preload: 'metadata', src: entry.href, playsInline: true });
    const { captions: spoken, ...sound } = habits;
    Object.assign(medium, sound);
    if (!isAudio && poster) medium.poster = poster.href;
    const text = captions.get(stem(entry.name));
    if (text) medium.append(make('track', { kind: 'captions', label: 'Captions', src: text.href, default: spoken }));
    const own = medium;
    const only = act => () => own === medium && act();
    let kept = 0;
    const keep = () => positions.keep(entry, own);
    own.addEventListener('loadedmetadata', only(() => resume(entry)), { once: true });
    own.addEventListener('timeupdate', only(() => {
      if (Math.abs(own.currentTime - kept) < 1) return;
      kept = own.currentTime;
      keep();
    }));
    for (const event of ['pause', 'seeked']) own.addEventListener(event, only(keep));
    own.addEventListener('playing', only(() => setTimeout(only(() => { resumed.hidden = true; }), 6000)), { once: true });
    own.addEventListener('volumechange', only(() => Object.assign(habits, { volume: own.volume, muted: own.muted })));
    own.addEventListener('ratechange', only(() => { habits.defaultPlaybackRate = own.playbackRate; }));
    own.textTracks.addEventListener('change', only(() => {
      habits.captions = [...own.textTracks].some(track => track.mode === 'showing');
    }));
    own.addEventListener('ended', only(() => {
      const following = step(current, 1, plays);
      if (following) move(following);
    }));
    own.addEventListener('error', only(() => fail(entry)));
    if (isAudio) {
      const sleeve = poster ? make('img', { src: poster.href, alt: '' }) : make('i', { className: 'sound' });
      stand(make('figure', {}, sleeve, own));
    } else {
      stand(own);
    }
    tellSystem(entry, poster);
    // A browser may want a click first; the controls are there for it.
    own.play().catch(() => {});
  }

  /** Goes on where this file was left, and says so. */
  function resume(entry) {
    const at = positions.get(entry);
    if (!(at < medium.duration)) return;
    medium.currentTime = at;
    find('span', resumed).textContent = `Resumed at ${clock(at)}`;
    resumed.hidden = false;
  }

  /** Says why an entry is not shown: the element does not tell a file that is gone from one that the browser can't play. */
  async function fail(entry) {
    const status = await fetch(entry.href, { method: 'HEAD' }).then(reply => reply.status, () => 0);
    if (current !== entry || !player.open) return;
    const trouble = (...said) => stand(make('p', { className: 'trouble' }, ...said));
    if (status === 0) trouble('The server can’t be reached.');
    else if (status === 401 || status === 403) trouble('You may not open this file.');
    else if (status === 404) trouble('This file is not there any more.');
    else if (status >= 400) trouble(`The server does not send this file (${status}).`);
    else {
      const link = make('a', { href: `${entry.href}?download`, textContent: 'Download it' });
      trouble('This browser can’t show this file. ', link, ' instead.');
    }
  }

  /** For keys of the keyboard, headsets and lock screens. */
  function tellSystem(entry, poster) {
    const session = navigator.mediaSession;
    if (!session) return;
    const artwork = poster ? [{ src: new URL(poster.href, location.href).href }] : [];
    session.metadata = new MediaMetadata({ title: entry.name, album: place, artwork });
    for (const [name, way] of [['previoustrack', -1], ['nexttrack', 1]]) {
      const other = () => step(current, way, plays);
      session.setActionHandler(name, other() ? () => other() && move(other()) : null);
    }
  }

  /** Ends what plays, so that it takes no more from the server. */
  function leave() {
    const ending = medium;
    medium = undefined;
    resumed.hidden = true;
    if (!ending) return;
    positions.keep(current, ending);
    ending.pause();
    ending.removeAttribute('src');
    ending.load();
  }

  // The address says what is open: a link to it opens it, and the way back closes it.
  const named = () => {
    const hash = location.hash.slice(1);
    const decoded = attempt(() => decodeURIComponent(hash));
    return hash === '' ? undefined : entries.find(entry => opens(entry) && (entry.href === hash || entry.name === decoded));
  };
  const attempt = act => {
    try {
      return act();
    } catch {
      return undefined;
    }
  };
  const here = () => location.pathname + location.search;
  function enter(entry) {
    history.pushState({ opened: true }, '', `#${entry.href}`);
    show(entry);
  }
  function move(entry) {
    history.replaceState({ opened: true }, '', `#${entry.href}`);
    show(entry);
  }
  function synchronize() {
    const entry = named();
    if (entry && (entry !== current || !player.open)) show(entry);
    else if (!entry && player.open) player.close();
  }
  window.addEventListener('popstate', synchronize);
  player.addEventListener('close', () => {
    leave();
    stage.replaceChildren();
    document.title = pageTitle;
    if (document.fullscreenElement) document.exitFullscreen();
    if (history.state?.opened) history.back();
    if (!current.row.hidden) current.link.focus();
  });
  window.addEventListener('pagehide', () => medium && positions.keep(current, medium));

  table.addEventListener('click', event => {
    const entry = byRow.get(event.target.closest('tbody tr'));
    const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
    if (!entry || !plain || !event.target.closest('a') || !opens(entry)) return;
    event.preventDefault();
    enter(entry);
  });
  find('.leave', player).addEventListener('click', () => player.close());
  const go = way => {
    const other = step(current, way, opens);
    if (other) move(other);
  };
  previous.addEventListener('click', () => go(-1));
  next.addEventListener('click', () => go(1));
  find('button', resumed).addEventListener('click', () => {
    medium.currentTime = 0;
    resumed.hidden = true;
    medium.play().catch(() => {});
  });

  const seek = seconds => {
    const end = Number.isFinite(medium.duration) ? medium.duration : Infinity;
    medium.currentTime = Math.min(Math.max(medium.currentTime + seconds, 0), end);
  };
  const loud = change => {
    medium.volume = Math.min(Math.max(Math.round((medium.volume + change) * 20) / 20, 0), 1);
    medium.muted = false;
  };
  const keys = {
    n: () => go(1),
    p: () => go(-1),
    f: () => (document.fullscreenElement ? document.exitFullscreen() : stage.requestFullscreen().catch(() => {})),
    ArrowLeft: event => (medium ? seek(event.shiftKey ? -10 : -5) : go(-1)),
    ArrowRight: event => (medium ? seek(event.shiftKey ? 10 : 5) : go(1)),
  };
  const mediaKeys = {
    ' ': () => (medium.paused ? medium.play().catch(() => {}) : medium.pause()),
    ArrowUp: () => loud(0.05),
    ArrowDown: () => loud(-0.05),
    m: () => { medium.muted = !medium.muted; },
    c: () => {
      for (const track of medium.textTracks) track.mode = track.mode === 'showing' ? 'hidden' : 'showing';
    },
  };
  // Before the controls of the browser see the key, so that it does not count twice.
  player.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = keys[event.key] ?? (medium && mediaKeys[event.key]);
    const presses = event.key === ' ' && event.target.closest('button, a');
    if (!act || presses) return;
    event.preventDefault();
    event.stopPropagation();
    act(event);
  }, true);

  // ---- Uploads.

  const uploadTo = find('main').dataset.upload;
  const panel = find('#uploads');
  const sheet = find('#drop');

  function startUploads() {
    const list = find('ul', panel);
    const [total, sum, said, away] = ['.total', '.sum', '[role=status]', '.away'].map(selector => find(selector, panel));
    const [add, pick] = [find('.add', tools), find('.pick', tools)];
    let uploads = [];
    const are = state => uploads.filter(upload => upload.state === state);
    const busy = () => are('waiting').length + are('sending').length > 0;

    /** One file on its way, and its line in the list. */
    function upload(file) {
      const bar = make('progress', { max: 1, value: 0 });
      bar.setAttribute('aria-label', file.name);
      const text = make('p', { textContent: 'Waiting' });
      const button = make('button', { type: 'button', className: 'tool' });
      const line = make('li', {}, make('b', { textContent: file.name, title: file.name }), bar, text, button);
      const own = { file, line, bar, text, button, sent: 0, state: 'waiting' };
      const label = (name, what) => {
        button.replaceChildren(icon(name));
        button.setAttribute('aria-label', `${what} ${file.name}`);
        button.title = what;
      };
      button.addEventListener('click', () => {
        if (own.state === 'failed') own.become('waiting', 'Waiting');
        else if (own.state !== 'done') own.cancel();
        work();
      });
      own.become = (state, words) => {
        own.state = state;
        own.text.textContent = words;
        line.className = state;
        bar.hidden = state === 'failed' || state === 'done';
        button.disabled = state === 'done';
        if (state === 'failed') label('again', 'Try again');
        else if (state === 'done') label('tick', 'Uploaded');
        else label('cross', 'Cancel');
        if (state === 'failed' || state === 'done') said.textContent = `${file.name}: ${words}`;
      };
      own.cancel = () => {
        own.state = 'cancelled';
        own.request?.abort();
        line.remove();
      };
      own.become('waiting', 'Waiting');
      return own;
    }

    function send(own) {
      const request = new XMLHttpRequest();
      own.request = request;
      own.sent = 0;
      own.become('sending', 'Starting');
      request.upload.addEventListener('progress', ({ loaded }) => {
        own.sent = loaded;
        own.bar.value = own.file.size > 0 ? loaded / own.file.size : 1;
        own.text.textContent = `${size(loaded)} of ${size(own.file.size)}`;
        addUp();
      });
      request.addEventListener('loadend', () => {
        if (own.state !== 'sending') return;
        const isStored = request.status >= 200 && request.status < 300;
        if (isStored) own.sent = own.file.size;
        own.become(isStored ? 'done' : 'failed', isStored ? size(own.file.size) : reason(request));
        work();
      });
      request.open('PUT', uploadTo + encodeURIComponent(own.file.name));
      request.send(own.file);
    }

    /** Why it was refused, in words. */
    function reason(request) {
      const told = attempt(() => JSON.parse(request.responseText).error.message);
      if (told) return told;
      if (request.status === 0) return 'The connection broke.';
      if (request.status === 401 || request.status === 403) return 'You may not upload here.';
      return `The server refused it (${request.status}).`;
    }

    /** Begins what may begin, and ends when all is done. */
    function work() {
      are('waiting').slice(0, SENT - are('sending').length).forEach(send);
      addUp();
      if (!busy() && uploads.length > 0) finish();
    }

    function addUp() {
      const counted = uploads.filter(({ state }) => state !== 'cancelled' && state !== 'failed');
      const bytes = counted.reduce((all, { file }) => all + file.size, 0);
      const sent = counted.reduce((all, own) => all + Math.min(own.sent, own.file.size), 0);
      const [done, failed] = [are('done').length, are('failed').length];
      total.max = Math.max(bytes, 1);
      total.value = bytes > 0 ? sent : Number(!busy());
      total.hidden = !busy();
      const percent = bytes > 0 ? ` · ${Math.floor(sent / bytes * 100)} %` : '';
      const parts = [];
      if (busy()) parts.push(`Uploading ${done + are('sending').length} of ${counted.length}${percent}`);
      else if (done > 0) parts.push(words(done, 'file uploaded', 'files uploaded'));
      if (failed > 0) parts.push(`${failed} failed`);
      sum.textContent = parts.join(' · ');
      const what = busy() ? 'Cancel all uploads' : 'Close';
      away.setAttribute('aria-label', what);
      away.title = what;
    }

    let refreshed = 0;
    async function finish() {
      const done = are('done');
      panel.hidden = uploads.every(({ state }) => state === 'cancelled');
      if (done.length === refreshed) return;
      refreshed = done.length;
      await refresh(new Set(done.map(({ file }) => file.name)));
    }

    function take(files) {
      if (!busy()) {
        uploads = are('failed');
        refreshed = 0;
        list.replaceChildren(...uploads.map(({ line }) => line));
      }
      const fresh = files.map(upload);
      uploads.push(...fresh);
      list.append(...fresh.map(({ line }) => line));
      panel.hidden = uploads.length === 0;
      work();
    }

    add.hidden = false;
    find('.empty')?.append(make('br'), 'Drop files here, or choose them with Upload.');
    add.addEventListener('click', () => pick.click());
    pick.addEventListener('change', () => {
      take([...pick.files]);
      pick.value = '';
    });
    away.addEventListener('click', () => {
      if (busy()) [...are('waiting'), ...are('sending')].forEach(own => own.cancel());
      else uploads = [];
      panel.hidden = uploads.every(({ state }) => state === 'cancelled');
      work();
    });
    window.addEventListener('beforeunload', event => busy() && event.preventDefault());

    // Whatever is dropped anywhere. A folder has no bytes of its own to send.
    const carries = event => event.dataTransfer?.types.includes('Files');
    let depth = 0;
    const over = change => {
      depth = change;
      sheet.hidden = depth === 0;
    };
    find('p', sheet).textContent = `Drop files to upload them to “${place}”`;
    window.addEventListener('dragenter', event => carries(event) && !player.open && over(depth + 1));
    window.addEventListener('dragleave', event => carries(event) && over(Math.max(depth - 1, 0)));
    window.addEventListener('dragover', event => carries(event) && event.preventDefault());
    window.addEventListener('drop', event => {
      if (!carries(event)) return;
      event.preventDefault();
      if (player.open) return;
      over(0);
      const items = [...event.dataTransfer.items].filter(item => item.kind === 'file');
      const isFolder = item => item.webkitGetAsEntry?.()?.isDirectory;
      take(items.filter(item => !isFolder(item)).map(item => item.getAsFile()).filter(Boolean));
      const folders = items.filter(isFolder).length;
      if (folders > 0) {
        panel.hidden = false;
        sum.textContent = 'Folders can’t be uploaded: drop the files in them.';
      }
    });
  }

  /** Reads the listing anew, in place; `arrived` are the names to point at. */
  async function refresh(arrived) {
    const reply = await fetch(here(), { headers: { Accept: 'text/html' }, cache: 'no-store' }).catch(() => undefined);
    if (!reply?.ok) return;
    const fresh = new DOMParser().parseFromString(await reply.text(), 'text/html');
    const rows = fresh.querySelector('tbody');
    if (!rows) return;
    const focused = entries.find(entry => entry.link === document.activeElement)?.href;
    near.disconnect();
    lengths.waiting.clear();
    rows.querySelector('.up')?.remove();
    body.replaceWith(document.adoptNode(rows));
    body = rows;
    body.setAttribute('role', 'rowgroup');
    entries = read(body);
    const playing = current;
    if (playing) current = entries.find(entry => entry.href === playing.href) ?? playing;
    find('.empty')?.remove();
    adopt();
    if (focused) entries.find(entry => entry.href === focused)?.link.focus();
    for (const entry of entries) {
      if (arrived.has(entry.name)) entry.row.classList.add('new');
    }
  }

  // ---- Begin.

  relate();
  settle();
  banner.after(tools);
  table.after(nothing, beside);
  table.setAttribute('role', 'table');
  table.setAttribute('aria-label', place);
  table.tHead.setAttribute('role', 'rowgroup');
  table.tHead.rows[0].setAttribute('role', 'row');
  for (const cell of table.tHead.rows[0].cells) cell.setAttribute('role', 'columnheader');
  body.setAttribute('role', 'rowgroup');
  addOrders();
  view(store.get('view', 'list') === 'grid' ? 'grid' : 'list');
  adopt();
  if (uploadTo !== undefined) startUploads();
  const asked = named();
  if (asked && history.state?.opened) {
    show(asked);
  } else if (asked) {
    history.replaceState(null, '', here());
    enter(asked);
  }
})();
