-- Names registries in a layer's flags again, where a full server has evicted the flags and kept the sources.
-- KEYS: the layer's flags, its set of sources on one registry, that on the home registry
-- ARGV: the registry's field, the home registry's field
-- Returns: 1 if the registry was missing
local flags, now = KEYS[1], tonumber(redis.call('TIME')[1])
if redis.call('HEXISTS', flags, ARGV[1]) == 1 then
  return 0
end
for i = 1, 2 do
  local left = redis.call('TTL', KEYS[i + 1])
  if left > 0 then
    redis.call('HSET', flags, ARGV[i], string.format('%d', now + left))
    if redis.call('TTL', flags) < left then
      redis.call('EXPIRE', flags, left)
    end
  end
end
return 1
