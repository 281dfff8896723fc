// CRC-32C (Castagnoli), the checksum of every record in a .stk: crc32c("123456789") is 0xe3069283.

const TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? 0x82f63b78 : 0);
  return value;
});

/** @param {Uint8Array} data */
export function crc32c(data) {
  let register = ~0;
  for (let i = 0; i < data.length; i++) register = TABLE[(register ^ data[i]) & 0xff] ^ (register >>> 8);
  return ~register >>> 0;
}
