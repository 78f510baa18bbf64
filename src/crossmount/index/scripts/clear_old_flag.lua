-- Removes the must-mount field of 0.1.0 from a layer's flags, and lets the flags expire, which had no end with it.
-- KEYS: the layer's flags
-- ARGV: seconds to live
-- Returns: 1 if the field was there
if redis.call('HDEL', KEYS[1], 'must_mount') == 0 then
  return 0
end
if redis.call('TTL', KEYS[1]) == -1 then
  redis.call('EXPIRE', KEYS[1], tonumber(ARGV[1]))
end
return 1
