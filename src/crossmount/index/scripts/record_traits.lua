-- Records the traits of a registry.
-- KEYS: the registry's hash
-- ARGV: seconds to live, then fields and values
for i = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('EXPIRE', KEYS[1], tonumber(ARGV[1]))
return 1
