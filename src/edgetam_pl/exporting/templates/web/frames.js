// Videos as numbered frames: {name, count, width, height, rate, picture(t)}. A picture can be drawn on a canvas.

// Files of pictures, or functions that fetch one, in the order of the video.
export async function fromPictures(blobs, name, rate) {
  const picture = async t => {
    const blob = await (typeof blobs[t] === 'function' ? blobs[t]() : blobs[t]);
    try {
      return await createImageBitmap(blob, {colorSpaceConversion: 'none'});
    } catch (error) {
      throw new Error(`${blob.name ?? `Frame ${t}`} cannot be decoded as a picture (${error.message}).`);
    }
  };
  const {width, height} = await picture(0);
  const checked = async t => {
    const found = await picture(t);
    if (found.width === width && found.height === height) return found;
    throw new Error(`Frame ${t} is ${found.width} x ${found.height}, the first one ${width} x ${height}; a video has frames of one size.`);
  };
  return {name, count: blobs.length, width, height, rate, picture: checked};
}

// A video file. Browsers do not number frames: frame t is what is shown at (t + 0.5) / rate seconds.
export async function fromFilm(file, rate) {
  const film = Object.assign(document.createElement('video'), {muted: true, preload: 'auto', src: URL.createObjectURL(file)});
  const happens = (event, change) => new Promise((resolve, reject) => {
    film.addEventListener(event, resolve, {once: true});
    film.onerror = () => reject(new Error(
      `${file.name} cannot be decoded as a video by this browser; MP4 with H.264 and WebM are widely understood.`));
    change?.();
  });
  await happens('loadeddata');
  if (!Number.isFinite(film.duration)) {
    throw new Error(`${file.name} does not say how long it is (a recording that was not finished?); save it again as MP4.`);
  }
  const picture = async t => {
    const time = (t + 0.5) / rate;
    if (film.currentTime !== time) await happens('seeked', () => { film.currentTime = time; });
    return film;
  };
  const count = Math.max(1, Math.floor(film.duration * rate + 1e-3));
  return {name: file.name, count, width: film.videoWidth, height: film.videoHeight, rate, picture};
}

// RGBA bytes of frame t.
export async function pixelsOf(video, t) {
  const canvas = new OffscreenCanvas(video.width, video.height), context = canvas.getContext('2d', {willReadFrequently: true});
  const picture = await video.picture(t);
  context.drawImage(picture, 0, 0);
  picture.close?.();
  return context.getImageData(0, 0, video.width, video.height).data;
}
