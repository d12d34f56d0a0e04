"use strict";

// All players of a clip follow the one that was last used, and the charts and the frames of a clip lead to its players.
function connect(clip) {
  const videos = [...clip.querySelectorAll("video")];
  const heads = [...clip.querySelectorAll(".head")];
  const times = JSON.parse(clip.dataset.times);
  const begin = Number(clip.dataset.begin), length = Number(clip.dataset.length);
  const play = clip.querySelector(".play"), where = clip.querySelector(".where");
  let now = times[0], playing = false, leader = videos[0];

  const frameAt = (time) => {
    let low = 0, high = times.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (times[middle] <= time + 1e-4) low = middle; else high = middle;
    }
    return low;
  };
  const show = () => {
    const frame = frameAt(now);
    where.textContent = `frame ${frame} of ${times.length}, ${times[frame].toFixed(2)} s`;
    const x = Math.min(Math.max((now - begin) / length, 0), 1) * 100 + "%";
    for (const head of heads) { head.setAttribute("x1", x); head.setAttribute("x2", x); }
  };
  const seek = (time, from) => {
    now = time;
    clip.classList.add("moved");
    for (const video of videos) {
      video.preload = "auto";
      if (video !== from && Math.abs(video.currentTime - now) > 0.001) video.currentTime = now;
    }
    show();
  };
  // The middle of a frame, so that rounding shows no neighbour.
  const toFrame = (frame) => {
    const k = Math.min(Math.max(frame, 0), times.length - 1);
    const end = k + 1 < times.length ? times[k + 1] : begin + length;
    seek((times[k] + end) / 2);
  };
  const follow = () => {
    if (!playing) return;
    now = leader.currentTime;
    for (const video of videos) {
      if (video !== leader && !video.seeking && Math.abs(video.currentTime - now) > 0.12) video.currentTime = now;
    }
    show();
    requestAnimationFrame(follow);
  };
  const start = (from) => {
    if (playing) return;
    playing = true;
    leader = from;
    play.textContent = "Pause all";
    if (now >= begin + length - 0.02 && leader.paused) now = begin;
    seek(leader.paused ? now : leader.currentTime, leader.paused ? null : leader);
    for (const video of videos) video.play().catch(() => {});
    requestAnimationFrame(follow);
  };
  const stop = () => {
    if (!playing) return;
    playing = false;
    play.textContent = "Play all";
    for (const video of videos) video.pause();
    seek(leader.currentTime, leader);
  };

  for (const video of videos) {
    video.addEventListener("play", () => start(video));
    video.addEventListener("pause", stop);
    video.addEventListener("seeking", () => {
      if (Math.abs(video.currentTime - now) > 0.15) seek(video.currentTime, video);
    });
    video.addEventListener("ratechange", () => {
      for (const other of videos) if (other.playbackRate !== video.playbackRate) other.playbackRate = video.playbackRate;
    });
  }
  play.addEventListener("click", () => playing ? stop() : start(videos[0]));
  clip.querySelector(".back").addEventListener("click", () => { stop(); toFrame(frameAt(now) - 1); });
  clip.querySelector(".ahead").addEventListener("click", () => { stop(); toFrame(frameAt(now) + 1); });
  clip.querySelector(".rate").addEventListener("change", (event) => {
    for (const video of videos) video.playbackRate = Number(event.target.value);
  });
  for (const plot of clip.querySelectorAll(".plot")) {
    plot.addEventListener("click", (event) => {
      const box = plot.getBoundingClientRect();
      toFrame(frameAt(begin + (event.clientX - box.left) / box.width * length));
    });
  }
  for (const shot of clip.querySelectorAll(".shot")) {
    shot.addEventListener("click", () => {
      stop();
      toFrame(Number(shot.dataset.frame));
      clip.querySelector(".transport").scrollIntoView({ block: "start" });
    });
  }
  for (const box of clip.querySelectorAll("[data-line]")) {
    box.addEventListener("change", () => {
      for (const line of clip.querySelectorAll(`.plot .line.${box.dataset.line}`)) {
        line.classList.toggle("hidden", !box.checked);
      }
    });
  }
  clip.addEventListener("toggle", () => { if (!clip.open) stop(); });
  clip.querySelector(".transport").hidden = false;
  show();
}

// A link to a clip opens it.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
  }
}

document.querySelectorAll(".clip").forEach(connect);
window.addEventListener("hashchange", reveal);
reveal();
