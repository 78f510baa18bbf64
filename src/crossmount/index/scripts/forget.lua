-- Drops repositories as sources of a layer, and with the last one all that only they justified.
-- KEYS: the layer's set of sources on one registry, the layer's flags
-- ARGV: the registry's field, then the repositories
local sources, flags = KEYS[1], KEYS[2]
for i = 2, #ARGV do
  redis.call('SREM', sources, ARGV[i])
end
if redis.call('EXISTS', sources) == 0 then
  redis.call('HDEL', flags, ARGV[1])
  for _, field in ipairs(redis.call('HKEYS', flags)) do
    if field ~= 'size' then
      return 1
    end
  end
  redis.call('DEL', flags)
end
return 1
